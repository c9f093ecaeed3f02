"""Tests of the builder; run by geoip/build --self-test. All networks are those for documentation."""

import contextlib
import io
import ipaddress
import pathlib
import random
import tempfile
import unittest

import maxminddb
from mmdb_writer import TreeWriter

import build

PLACES = build.Places(
    build.HERE / "country_centroids.csv", build.HERE / "cloud_regions.csv", build.HERE / "cloud_region_aliases.csv"
)
SAMPLES = build.HERE / "samples"


def overlay(name):
    with contextlib.redirect_stdout(io.StringIO()):
        return build.cloud_layer(build.read_overlay(SAMPLES / name, PLACES), name)


def at(layer, address):
    number = int(ipaddress.ip_address(address))
    return next((place for first, last, place in layer if first <= number <= last), None)


class Overlays(unittest.TestCase):
    def expect(self, name, wanted):
        layer = overlay(name)
        for address, place in wanted.items():
            with self.subTest(address):
                self.assertEqual(at(layer, address), place)

    def test_aws(self):
        self.expect("aws.json", {
            "198.51.100.1": ("region", "aws", "us-east-1"),
            "198.51.100.65": ("region", "aws", "eu-west-1"),
            "198.51.100.128": ("region", "aws", "us-east-1"),
            "2001:db8:a::1": ("region", "aws", "ap-southeast-1"),
            "203.0.113.1": None,
        })

    def test_google(self):
        self.expect("google.json", {
            "192.0.2.1": ("region", "gcp", "europe-north1"),
            "192.0.2.129": None,
            "2001:db8:b::1": ("region", "gcp", "asia-northeast1"),
        })

    def test_azure_and_its_short_region_names(self):
        self.expect("azure.json", {
            "198.51.100.1": ("region", "azure", "germanywestcentral"),
            "198.51.100.129": None,
            "2001:db8:c::1": ("region", "azure", "germanywestcentral"),
        })

    def test_oracle(self):
        self.expect("oracle.json", {
            "203.0.113.1": ("region", "oracle", "uk-london-1"),
            "198.51.100.1": ("region", "oracle", "sa-saopaulo-1"),
        })

    def test_geofeed_takes_the_metro_it_knows_else_the_country(self):
        layer = overlay("geofeed.csv")
        self.assertEqual(at(layer, "192.0.2.1")[0], "region")
        self.assertEqual(PLACES.fields(at(layer, "192.0.2.1"))[0], "BR")
        self.assertEqual(at(layer, "198.51.100.1"), ("country", "DE"))
        self.assertIsNone(at(layer, "203.0.113.1"))
        self.assertEqual(at(layer, "2001:db8:d::1"), ("country", "CH"))

    def test_what_it_cannot_read_is_an_error(self):
        for text in ("{}", "[]", '{"prefixes": []}', "{", "", "192.0.2.0/24,XX", "not a network,DE", '{"values": []}'):
            with self.subTest(text), tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "list"
                path.write_text(text, encoding="utf-8")
                with self.assertRaises(build.BuildError), contextlib.redirect_stdout(io.StringIO()):
                    build.cloud_layer(build.read_overlay(path, PLACES), "list")


class Countries(unittest.TestCase):
    def test_delegated_statistics(self):
        layer = build.read_delegated((SAMPLES / "delegated.txt").read_text(encoding="utf-8"), PLACES)
        self.assertEqual(at(layer, "192.0.2.255"), ("country", "CH"))
        self.assertEqual(at(layer, "2001:db8:ffff::"), ("country", "JP"))
        self.assertIsNone(at(layer, "198.51.100.1"))
        self.assertIsNone(at(layer, "203.0.113.1"))

    def test_overlapping_rows_are_an_error(self):
        with self.assertRaises(build.BuildError):
            build.read_country_csv("192.0.2.0,192.0.2.255,DE\n192.0.2.128,192.0.2.255,FR\n", PLACES)

    def test_a_damaged_row_is_an_error(self):
        for text in ("192.0.2.0,DE\n", "a,b,DE\n", "192.0.2.0,192.0.2.9,QQ\n"):
            with self.subTest(text), self.assertRaises(build.BuildError):
                build.read_country_csv(text, PLACES)

    def test_an_empty_source_is_an_error(self):
        with self.assertRaises(build.BuildError), contextlib.redirect_stdout(io.StringIO()):
            build.check_sources([], [])

    def test_epoch_is_the_packages_day(self):
        self.assertEqual(build.epoch_of("2.3.2026061719"), 1781654400)
        with self.assertRaises(build.BuildError):
            build.epoch_of("2.3.1")


class Layers(unittest.TestCase):
    """Against a plain array of 2^10 addresses, on many random layers."""

    def test_flatten_and_paint(self):
        for seed in range(200):
            chance = random.Random(seed)
            below, below_array = self.layer(chance)
            above, above_array = self.layer(chance)
            self.assertEqual(self.array(below), below_array, seed)
            wanted = [a if a is not None else b for a, b in zip(above_array, below_array)]
            self.assertEqual(self.array(build.paint(below, above)), wanted, seed)

    def layer(self, chance):
        networks = []
        for _ in range(chance.randrange(12)):
            bits = chance.randrange(11)
            first = chance.randrange(1 << 10) >> bits << bits
            networks.append((first, first + (1 << bits) - 1, chance.choice("abc")))
        array = [None] * (1 << 10)
        for first, last, place in sorted(networks, key=lambda n: n[0] - n[1]):  # the widest first, stable
            array[first : last + 1] = [place] * (last - first + 1)
        return build.flatten(networks), array

    def array(self, layer):
        array = [None] * (1 << 10)
        for first, last, place in layer:
            array[first : last + 1] = [place] * (last - first + 1)
        return array


class Writing(unittest.TestCase):
    def test_every_address_comes_back(self):
        places = [("country", "DE"), ("country", "AQ"), ("country", "US"), ("region", "aws", "eu-west-1")]
        for seed in range(20):
            chance = random.Random(seed)
            networks = [
                (*build.span(f"192.0.2.{chance.randrange(256)}/{chance.randrange(24, 33)}"), chance.choice(places))
                for _ in range(20)
            ] + [(*build.span(f"2001:db8:{chance.randrange(9)}::/48"), chance.choice(places)) for _ in range(4)]
            layer = build.flatten(networks)
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "small.mmdb"
                meta = {"ip_version": 6, "database_type": "Test-City", "languages": [], "description": {},
                        "binary_format_major_version": 2, "binary_format_minor_version": 0, "build_epoch": 0}
                TreeWriter(build.tree(layer, build.records(layer, PLACES)), meta).write(str(path))
                build.compare(path, layer, PLACES)
                with maxminddb.open_database(str(path), maxminddb.MODE_MEMORY) as reader:
                    for last in range(256):
                        found = (reader.get(f"192.0.2.{last}") or {}).get("country", {}).get("iso_code")
                        place = at(layer, f"192.0.2.{last}")
                        self.assertEqual(found, place and PLACES.fields(place)[0], (seed, last))

    def test_records_have_the_nested_city_schema(self):
        layer = [(0, 1, ("country", "DE")), (2, 3, ("country", "AQ")), (4, 5, ("region", "aws", "us-east-1"))]
        made = build.records(layer, PLACES)
        self.assertEqual(made["country", "DE"]["country"], {"iso_code": "DE", "is_in_european_union": True})
        self.assertEqual(made["country", "DE"]["continent"], {"code": "EU"})
        self.assertGreater(made["country", "DE"]["location"]["accuracy_radius"].value, 200)
        self.assertNotIn("location", made["country", "AQ"])
        self.assertEqual(made["region", "aws", "us-east-1"]["location"]["accuracy_radius"].value, build.METRO_RADIUS_KM)


if __name__ == "__main__":
    unittest.main()
