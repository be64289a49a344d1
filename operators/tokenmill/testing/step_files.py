"""A STEP file for tests: a box as a faceted boundary representation (ISO 10303-214)."""

from __future__ import annotations

from collections.abc import Iterable

from tokenmill.testing.shapes import Mesh

_HEADER = (
    "ISO-10303-21;\nHEADER;\nFILE_DESCRIPTION((''),'2;1');\n"
    "FILE_NAME('made','2026-01-01T00:00:00',(''),(''),'','','');\n"
    "FILE_SCHEMA(('AUTOMOTIVE_DESIGN'));\nENDSEC;\nDATA;\n"
)
_FOOTER = "ENDSEC;\nEND-ISO-10303-21;\n"


class _Entities:
    """The numbered entities of a file."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, text: str) -> str:
        """Add an entity and return its reference."""
        self.lines.append(f"#{len(self.lines) + 1}={text};\n")
        return f"#{len(self.lines)}"


def step(mesh: Mesh) -> bytes:
    """Return a STEP file of a closed mesh, in millimetres."""
    found = _Entities()
    solid = _solid(found, mesh)
    frame = _frame(found, (0, 0, 0), (0, 0, 1), (1, 0, 0))
    context = _context(found)
    shape = found.add(f"FACETED_BREP_SHAPE_REPRESENTATION('',({solid},{frame}),{context})")
    product = _product(found)
    found.add(f"SHAPE_DEFINITION_REPRESENTATION({product},{shape})")
    return (_HEADER + "".join(found.lines) + _FOOTER).encode()


def _solid(found: _Entities, mesh: Mesh) -> str:
    points = [_triple(found, "CARTESIAN_POINT", point) for point in mesh.vertices.tolist()]
    faces: list[str] = []
    for corners in mesh.faces.tolist():
        a, b, c = mesh.vertices[corners]
        loop = found.add(f"POLY_LOOP('',({','.join(points[i] for i in corners)}))")
        bound = found.add(f"FACE_OUTER_BOUND('',{loop},.T.)")
        normal = (
            (b - a)[1] * (c - a)[2] - (b - a)[2] * (c - a)[1],
            (b - a)[2] * (c - a)[0] - (b - a)[0] * (c - a)[2],
            (b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0],
        )
        plane = found.add(f"PLANE('',{_frame(found, a, normal, b - a)})")
        faces.append(found.add(f"FACE_SURFACE('',({bound}),{plane},.T.)"))
    shell = found.add(f"CLOSED_SHELL('',({','.join(faces)}))")
    return found.add(f"FACETED_BREP('',{shell})")


def _triple(found: _Entities, kind: str, values: Iterable[float]) -> str:
    return found.add(f"{kind}('',({','.join(repr(float(value)) for value in values)}))")


def _frame(
    found: _Entities, origin: Iterable[float], z: Iterable[float], x: Iterable[float]
) -> str:
    at = _triple(found, "CARTESIAN_POINT", origin)
    axes = _triple(found, "DIRECTION", z), _triple(found, "DIRECTION", x)
    return found.add(f"AXIS2_PLACEMENT_3D('',{at},{axes[0]},{axes[1]})")


def _context(found: _Entities) -> str:
    length = found.add("(LENGTH_UNIT() NAMED_UNIT(*) SI_UNIT(.MILLI.,.METRE.))")
    angle = found.add("(NAMED_UNIT(*) PLANE_ANGLE_UNIT() SI_UNIT($,.RADIAN.))")
    solid = found.add("(NAMED_UNIT(*) SI_UNIT($,.STERADIAN.) SOLID_ANGLE_UNIT())")
    near = found.add(f"UNCERTAINTY_MEASURE_WITH_UNIT(LENGTH_MEASURE(1.E-07),{length},'','')")
    return found.add(
        "(GEOMETRIC_REPRESENTATION_CONTEXT(3) "
        f"GLOBAL_UNCERTAINTY_ASSIGNED_CONTEXT(({near})) "
        f"GLOBAL_UNIT_ASSIGNED_CONTEXT(({length},{angle},{solid})) "
        "REPRESENTATION_CONTEXT('',''))"
    )


def _product(found: _Entities) -> str:
    domain = found.add("APPLICATION_CONTEXT('automotive design')")
    context = found.add(f"PRODUCT_CONTEXT('',{domain},'mechanical')")
    product = found.add(f"PRODUCT('made','made','',({context}))")
    formation = found.add(f"PRODUCT_DEFINITION_FORMATION('','',{product})")
    stage = found.add(f"PRODUCT_DEFINITION_CONTEXT('part definition',{domain},'design')")
    definition = found.add(f"PRODUCT_DEFINITION('design','',{formation},{stage})")
    return found.add(f"PRODUCT_DEFINITION_SHAPE('','',{definition})")
