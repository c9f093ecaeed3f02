#!/usr/bin/env python3
"""Builds land.js: the outline of the world's land for the status page's map.

Usage: build.py [--check]
Needs Python 3.11 or newer and npm, and no packages. With --check nothing is written; the exit status tells whether the
file that stands there is what would be written.

Source: Natural Earth 1:110m land, as packed by the npm package world-atlas (see NOTICE). It is TopoJSON: arcs of delta
coded integers, and polygons that name arcs. What comes out is one string of rings. A ring is a list of integers, tenths
of a degree: longitude and latitude of its first point, then the steps to each next one; rings are parted by `;`.
"""

import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = "world-atlas@2.0.2"
PACKAGE_SHA256 = "032e7765f2ce00edaeafec23ff22bc3b77e42987c257da944cc585b452c05b97"
FILE = "package/land-110m.json"

# The map ends here: south of it lies only Antarctica.
SOUTH_END = -60.0
# How far, in degrees, an outline may be off after simplifying: less than a pixel of a map 960 pixels wide.
TOLERANCE = 0.25
# Islands smaller than this, in square degrees, would be specks.
LEAST_AREA = 0.6
LINE = 116


def download():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = pathlib.Path(folder).glob("*.tgz")
        data = archive.read_bytes()
    if hashlib.sha256(data).hexdigest() != PACKAGE_SHA256:
        sys.exit(f"{PACKAGE} is not what it was: its SHA-256 differs")
    with tarfile.open(fileobj=io.BytesIO(data)) as files:
        return json.load(files.extractfile(FILE))


def rings(topology):
    """The outer ring of every polygon; what 1:110m knows of lakes is not worth its bytes."""
    (scale_x, scale_y), (at_x, at_y) = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = []
    for steps in topology["arcs"]:
        x = y = 0
        arc = []
        for step_x, step_y in steps:
            x, y = x + step_x, y + step_y
            arc.append((x * scale_x + at_x, y * scale_y + at_y))
        arcs.append(arc)
    for shape in topology["objects"]["land"]["geometries"]:
        polygons = shape["arcs"] if shape["type"] == "MultiPolygon" else [shape["arcs"]]
        for outer, *_ in polygons:
            ring = []
            for ix in outer:
                arc = arcs[ix] if ix >= 0 else arcs[~ix][::-1]
                ring += arc if not ring else arc[1:]
            yield from at_home(ring)


def at_home(ring):
    """The parts of a ring on either side of the 180th meridian, which stitched outlines cross, each within the map."""
    turns, flat = 0, []
    for x, y in ring:
        if flat:
            turns -= round((x + 360 * turns - flat[-1][0]) / 360)
        flat.append((x + 360 * turns, y))
    for shift in (-360, 0, 360):
        part = [(x + shift, y) for x, y in flat]
        part = cut(cut(part, -180, 1), 180, -1)
        if part:
            yield part


def cut(ring, border, side):
    """What of a ring lies east (side 1) or west (side -1) of a meridian."""
    kept = []
    for (x, y), (to_x, to_y) in zip(ring, ring[1:]):
        inside, to_inside = side * (x - border) >= 0, side * (to_x - border) >= 0
        if inside:
            kept.append((x, y))
        if inside != to_inside:
            kept.append((border, y + (to_y - y) * (border - x) / (to_x - x)))
    return kept + kept[:1]


def area(ring):
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, ring[1:]))) / 2


def simplified(line):
    """Ramer, Douglas and Peucker: points that lie nearer than TOLERANCE to the line without them are left out."""
    (x, y), (to_x, to_y) = line[0], line[-1]
    length = max(((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5, 1e-9)
    closed = line[0] == line[-1]

    def off(point):
        if closed:
            return ((point[0] - x) ** 2 + (point[1] - y) ** 2) ** 0.5
        return abs((to_y - y) * (point[0] - x) - (to_x - x) * (point[1] - y)) / length

    farthest = max(range(1, len(line) - 1), key=lambda ix: off(line[ix]), default=None)
    if farthest is None or off(line[farthest]) < TOLERANCE:
        return [line[0], line[-1]]
    return simplified(line[: farthest + 1])[:-1] + simplified(line[farthest:])


def encoded(ring):
    points = [(round(x * 10), round(y * 10)) for x, y in ring]
    numbers, before = list(points[0]), points[0]
    # The outline closes by itself.
    for point in points[1:-1]:
        if point != before:
            numbers += [point[0] - before[0], point[1] - before[1]]
            before = point
    return " ".join(map(str, numbers))


def build():
    kept = [ring for ring in rings(download()) if max(y for _, y in ring) > SOUTH_END and area(ring) >= LEAST_AREA]
    text = ";".join(encoded(simplified(ring)) for ring in kept)
    lines = [text[at : at + LINE] for at in range(0, len(text), LINE)]
    quoted = " +\n".join(f'  "{line}"' for line in lines)
    return (
        "// The world's land, by build.py in this folder: Natural Earth 1:110m, in the public domain (see NOTICE).\n"
        "// Rings parted by `;`, in tenths of a degree: longitude and latitude of the first point, then steps.\n"
        f"const LAND =\n{quoted};\n"
    )


def main():
    target = HERE / "land.js"
    built = build()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if target.read_text() == built else "land.js differs from what build.py makes")
    target.write_text(built)
    print(f"land.js: {len(built)} bytes")


if __name__ == "__main__":
    main()
