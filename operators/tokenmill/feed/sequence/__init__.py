"""What comes when: the order of all samples as functions of numbers, without reading data."""
