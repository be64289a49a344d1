"""Which 3D format bytes are of; a name is asked only where bytes say nothing.

OBJ, columns of points and binary STL have no signature. OBJ and columns are known by their first
lines that say something; binary STL by a length that its count explains. What is left is read as
its name says, so that a cut STL is called truncated and an OBJ of comments alone has no geometry.
"""

from __future__ import annotations

import io
import re
import zipfile

from tokenmill.decoders.shape_stl import is_binary, starts_as_text

#: Formats that are told by how they start and that nobody here reads.
_UNREAD = (
    (b"Kaydara FBX Binary", "FBX"),
    (b"; FBX", "FBX"),
    (b"BLENDER", "Blender"),
    (b"PXR-USDC", "USD"),
    (b"#usda", "USD"),
    (b"#VRML", "VRML"),
    (b"ASTM-E57", "E57"),
    (b"# .PCD", "PCD"),
    (b"# vtk", "VTK"),
    (b"VERSION ", "PCD"),
    (b"DRACO", "Draco"),
    (b"$MeshFormat", "Gmsh"),
    (b"MeshVersionFormatted", "Medit"),
    (b"\x1f\x8b", "gzip"),
    (b"NGSP", "SPZ"),
)
_HEAD_BYTES = 4096
_LINES_BYTES = 2**16
_OFF = re.compile(rb"(\s|#[^\n]*\n)*+(ST)?C?N?4?n?OFF\b")
_XML_3D = re.compile(rb"<(COLLADA|X3D|amf)\b")
_OBJ_LINE = re.compile(
    rb"^(v[ \t]+[-+.\d]|vn[ \t]|vt[ \t]|f[ \t]+[-\d]|l[ \t]+[-\d]"
    rb"|o[ \t]|g\b|s[ \t]+(\d+|off)\s*$|mtllib[ \t]|usemtl\b)"
)
_NUMBER = rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_POINT_LINE = re.compile(rb"^%b([ \t]*[,; \t][ \t]*%b){2,}\s*$" % (_NUMBER, _NUMBER))
_COUNT_LINE = re.compile(rb"^\d+\s*$")
_TEXT_STL = re.compile(rb"^\s*(facet|endsolid)\b", re.MULTILINE | re.IGNORECASE)
_BY_NAME = {
    "obj": "OBJ", "stl": "STL", "xyz": "XYZ", "pts": "XYZ", "asc": "XYZ", "csv": "XYZ",
}  # fmt: skip


def sniff(data: bytes, name: str) -> str | None:
    """Return the format (``GLB``, ``glTF``, ``OBJ``, ``PLY``, ``STL``...), or None.

    Names of formats that no reader here knows are returned too. ``name`` ends as the file does.
    """
    head = data[:_HEAD_BYTES]
    if head.startswith(b"glTF"):
        return "GLB"
    if head.startswith((b"ply\n", b"ply\r")):
        return "PLY"
    if head.startswith(b"LASF"):
        return "LAS"
    if head.startswith(b"PK\x03\x04"):
        return _archive(data, name)
    if head.lstrip().startswith(b"ISO-10303-21"):
        return "STEP"
    for signature, unread in _UNREAD:
        if head.startswith(signature):
            return unread
    return _by_structure(data) or _by_lines(data) or _by_name(data, name)


def _archive(data: bytes, name: str) -> str:
    try:
        names = [name.lower() for name in zipfile.ZipFile(io.BytesIO(data)).namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        # The directory stands at a ZIP's end; a cut one still names its first parts.
        head = data[:_HEAD_BYTES].lower()
        is_package = b"3d/3dmodel.model" in head or b"[content_types].xml" in head
        return "3MF" if is_package or name.lower().endswith(".3mf") else "ZIP"
    if any(name.endswith(".model") for name in names):
        return "3MF"
    return "USD" if any(name.endswith((".usd", ".usda", ".usdc")) for name in names) else "ZIP"


def _by_structure(data: bytes) -> str | None:
    head = data[:_HEAD_BYTES]
    if is_binary(data) or (starts_as_text(data) and _TEXT_STL.search(head)):
        return "STL"
    if _is_gltf(data):
        return "glTF"
    if _OFF.match(data[:_LINES_BYTES]):
        return "OFF"
    found = _XML_3D.search(head)
    return found.group(1).decode() if found else None


def _is_gltf(data: bytes) -> bool:
    head = data[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    keys = (b'"asset"', b'"buffers"', b'"meshes"', b'"scenes"', b'"accessors"', b'"nodes"')
    return head.startswith(b"{") and any(key in data for key in keys)


def _by_lines(data: bytes) -> str | None:
    """Judge a text by its first line that is no comment."""
    head = data[:_LINES_BYTES]
    if b"\0" in head:
        return None
    said = [line.strip() for line in head.splitlines()]
    lines = [line for line in said if line and not line.startswith((b"#", b"//"))][:2]
    if lines and _OBJ_LINE.match(lines[0]):
        return "OBJ"
    if len(lines) == 2 and _COUNT_LINE.match(lines[0]):
        lines = lines[1:]
    return "XYZ" if lines and _POINT_LINE.match(lines[0]) else None


def _by_name(data: bytes, name: str) -> str | None:
    found = _BY_NAME.get(name.rpartition(".")[2].lower())
    is_lines = b"\0" not in data[:_LINES_BYTES]
    if found == "STL":
        return found if starts_as_text(data) or not is_lines else None
    return found if is_lines else None
