//! Whether the region that is chosen is the nearest: by distance for clients all over the world, by round trip for edges in
//! cloud regions between which it was measured.
//!
//! `cargo test --test nearest -- --nocapture` prints the figures that the README quotes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use nearpool::config;
use nearpool::domain::ask::Dialect;
use nearpool::domain::ids::RegionIx;
use nearpool::domain::whereabouts::{Source, Whereabouts};
use nearpool::policy::client_rule::Asker;
use nearpool::policy::pool::{self, PoolCandidate};
use nearpool::policy::region::Standings;
use nearpool::roster::Snapshot;
use nearpool::wire::geoip::GeoDb;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Cloud regions all over the world.
const WORLD: [&str; 10] = [
    "us-west-2",
    "us-east-1",
    "sa-east-1",
    "eu-west-1",
    "eu-central-1",
    "af-south-1",
    "ap-south-1",
    "ap-southeast-1",
    "ap-northeast-1",
    "ap-southeast-2",
];

const ADDRESSES_PER_CONTINENT: usize = 40;
const ADDRESSES_PER_PLACE: usize = 4;

/// What makes no difference, in ms.
const SAME_MS: f64 = 2.0;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// Where a provider's regions are: degrees north and east.
fn cloud_regions(provider: &str) -> BTreeMap<String, (f64, f64)> {
    let text = read("geoip/cloud_regions.csv");
    let rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>()).filter(|row| row[0] == provider);
    rows.map(|row| (row[1].to_owned(), (row[5].parse().unwrap(), row[6].parse().unwrap()))).collect()
}

/// An edge that stands in the first of these regions, with a pool of one replica in each.
fn snapshot(regions: &[(&str, (f64, f64))], nearest_to: &str, geo: GeoDb) -> Snapshot {
    let region = |(name, (latitude, longitude)): &(&str, (f64, f64))| {
        format!("{name} = {{ latitude = {latitude:?}, longitude = {longitude:?} }}\n")
    };
    let pool = |(n, (name, _)): (usize, &(&str, (f64, f64)))| {
        format!(
            "[[pools]]\nname = \"p-{name}\"\nregion = \"{name}\"\nmodel = \"m\"\nengine = \"vllm\"\n\
             replicas = [\"http://127.0.0.1:{}\"]\n",
            20_000 + n
        )
    };
    let text = format!(
        "[edge]\nname = \"edge\"\nregion = \"{}\"\nlisten = [\"127.0.0.1:8080\"]\n[regions]\n{}\
         [geo]\nnearest_to = \"{nearest_to}\"\n[models.m]\n{}",
        regions[0].0,
        regions.iter().map(region).collect::<String>(),
        regions.iter().enumerate().map(pool).collect::<String>(),
    );
    let config =
        config::parse("world.toml", &text, Path::new(""), &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
    Snapshot::new(Arc::new(config), Arc::new(geo), None)
}

fn order(snapshot: &Snapshot, standings: &Standings) -> Vec<PoolCandidate> {
    let topology = &snapshot.config.topology;
    pool::order(topology, topology.model_names["m"], Dialect::Chat, standings).unwrap()
}

/// The angle between two places by the cosine rule of the sphere, times its radius: another way than the edge's.
fn great_circle_km((lat_a, lon_a): (f64, f64), (lat_b, lon_b): (f64, f64)) -> f64 {
    let ((lat_a, lon_a), (lat_b, lon_b)) =
        ((lat_a.to_radians(), lon_a.to_radians()), (lat_b.to_radians(), lon_b.to_radians()));
    let cosine = lat_a.sin() * lat_b.sin() + lat_a.cos() * lat_b.cos() * (lon_a - lon_b).cos();
    6_371.0 * cosine.clamp(-1.0, 1.0).acos()
}

/// Addresses of the shipped database with their places: so many of each continent, few of each place.
fn addresses(geo: &GeoDb) -> Vec<(IpAddr, Whereabouts)> {
    // Large strides through both families, so that registries and clouds of all kinds occur.
    let v4 = (1..=223u8).flat_map(|a| (0..=255u8).map(move |b| IpAddr::from(Ipv4Addr::new(a, b, 7, 9))));
    let v6 = (0x2001..=0x2c0fu16).flat_map(|a| {
        (0..=0xffffu16).step_by(0x0111).map(move |b| IpAddr::from(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 1)))
    });
    let (mut found, mut of_continent, mut of_place) = (Vec::new(), BTreeMap::new(), HashMap::new());
    for address in v6.step_by(97).chain(v4) {
        let Some(located) = geo.lookup(address).unwrap() else { continue };
        let whereabouts = located.whereabouts(Whereabouts::unknown(Some(address), Source::Peer));
        let (Some(place), Some(continent)) = (whereabouts.place, whereabouts.continent) else { continue };
        let count = of_continent.entry(continent.to_string()).or_insert(0);
        let here = of_place.entry((place.latitude.to_bits(), place.longitude.to_bits())).or_insert(0);
        if *count < ADDRESSES_PER_CONTINENT && *here < ADDRESSES_PER_PLACE {
            (*count, *here) = (*count + 1, *here + 1);
            found.push((address, whereabouts));
        }
    }
    println!("addresses of each continent: {of_continent:?}");
    assert!(["AF", "AS", "EU", "NA", "OC", "SA"].iter().all(|code| of_continent[*code] >= 20), "{of_continent:?}");
    found
}

#[test]
fn clients_of_all_continents_are_served_in_the_region_of_least_distance() {
    let regions = cloud_regions("aws");
    let regions: Vec<(&str, (f64, f64))> = WORLD.iter().map(|name| (*name, regions[*name])).collect();
    let geo = GeoDb::from_bytes(std::fs::read(Path::new(ROOT).join("geoip/nearpool.mmdb")).unwrap()).unwrap();
    let addresses = addresses(&geo);
    let snapshot = snapshot(&regions, "client", geo);
    let mut chosen = BTreeSet::new();
    for (address, whereabouts) in &addresses {
        let pools = order(&snapshot, &snapshot.standings(Asker { whereabouts, keys: &[] }));
        let place = whereabouts.place.map(|place| (place.latitude, place.longitude)).unwrap();
        let region = |pool: &PoolCandidate| snapshot.config.topology.region(pool.region).name.as_str();
        let km = |name: &str| great_circle_km(place, regions.iter().find(|(region, _)| *region == name).unwrap().1);
        let found: Vec<f64> = pools.iter().map(|pool| km(region(pool))).collect();
        // To 10 m: two ways to compute differ by less.
        let is_sorted = found.is_sorted_by(|a, b| *a <= b + 0.01);
        assert!(pools.len() == WORLD.len() && is_sorted, "{address} at {place:?}: {found:?}");
        chosen.insert(region(&pools[0]).to_owned());
    }
    println!("{} addresses, served in {} regions", addresses.len(), chosen.len());
    assert!(addresses.len() >= 200 && chosen.len() == WORLD.len(), "{} addresses, {chosen:?}", addresses.len());
}

/// Measured round trips in ms, from each region of the table to each.
fn round_trips() -> (Vec<String>, Vec<Vec<f64>>) {
    let text = read("geoip/rtt_azure.csv");
    let mut lines = text.lines();
    let names: Vec<String> = lines.next().unwrap().split(',').skip(1).map(str::to_owned).collect();
    let row = |line: &str| line.split(',').skip(1).map(|ms| ms.parse().unwrap()).collect::<Vec<f64>>();
    let rows: Vec<_> = lines.map(row).collect();
    assert!(rows.len() == names.len() && rows.iter().all(|row| row.len() == names.len()));
    (names, rows)
}

/// Every set of four of `0..count`.
fn fours(count: usize) -> impl Iterator<Item = [usize; 4]> {
    let below = move |from: usize| from..count;
    below(0).flat_map(move |a| {
        below(a + 1).flat_map(move |b| below(b + 1).flat_map(move |c| below(c + 1).map(move |d| [a, b, c, d])))
    })
}

/// By how much longer than the best the chosen round trips were, in ms, one for each draw.
#[derive(Default)]
struct Excess(Vec<f64>);

impl Excess {
    fn same_share(&self) -> f64 {
        self.0.iter().filter(|ms| **ms <= SAME_MS).count() as f64 / self.0.len() as f64
    }

    /// The mean of those that make a difference, and what 1 in 100 of all exceed.
    fn wrong_by(&mut self) -> (f64, f64) {
        self.0.sort_by(f64::total_cmp);
        let wrong: Vec<f64> = self.0.iter().copied().filter(|ms| *ms > SAME_MS).collect();
        (wrong.iter().sum::<f64>() / wrong.len().max(1) as f64, self.0[self.0.len() * 99 / 100])
    }

    fn print(&mut self, what: &str) {
        let (share, (mean, p99)) = (100.0 * self.same_share(), self.wrong_by());
        println!(
            "{what}: within {SAME_MS} ms of the best in {share:.1} % of {} draws, else {mean:.0} ms worse on average; \
             p99 of all {p99:.0} ms",
            self.0.len()
        );
    }
}

#[test]
fn by_round_trip_an_edge_finds_the_fastest_of_four_regions_where_distance_is_often_wrong() {
    let (names, ms) = round_trips();
    let places = cloud_regions("azure");
    let (mut by_distance, mut by_round_trip) = (Excess::default(), Excess::default());
    for (edge, from_edge_ms) in ms.iter().enumerate() {
        // The edge's own region is no choice: it would always be the best.
        let others: Vec<usize> = (0..names.len()).filter(|n| *n != edge).collect();
        let regions = [&[edge], &others[..]].concat();
        let regions: Vec<_> = regions.iter().map(|n| (names[*n].as_str(), places[&names[*n]])).collect();
        let geo = || GeoDb::from_bytes(include_bytes!("data/mini-city.mmdb").as_slice()).unwrap();
        let snapshot = snapshot(&regions, "edge", geo());
        let topology = &snapshot.config.topology;
        let number = |region: RegionIx| names.iter().position(|name| *name == topology.region(region).name).unwrap();
        let rules = &snapshot.config.geo.rules;
        let measured = rules.standings(topology, Asker::NOBODY, |region| Some(from_edge_ms[number(region)]));
        let unmeasured = rules.standings(topology, Asker::NOBODY, |_| None);
        let mut pools = order(&snapshot, &unmeasured);
        pools.sort_by_key(|pool| number(pool.region));
        for four in fours(others.len()) {
            let four = four.map(|n| others[n]);
            let best_ms = four.iter().map(|n| from_edge_ms[*n]).fold(f64::INFINITY, f64::min);
            let excess_ms = |standings: &Standings| {
                let mut pools = four.map(|n| pools[n]);
                standings.sort(topology, &mut pools);
                from_edge_ms[number(pools[0].region)] - best_ms
            };
            by_round_trip.0.push(excess_ms(&measured));
            by_distance.0.push(excess_ms(&unmeasured));
        }
    }
    by_distance.print("nearest by distance alone");
    by_round_trip.print("nearest_to = \"edge\"");
    assert_eq!(by_distance.0.len(), 19 * 3_060, "every set of four of the 18 others, for each edge");
    assert!(by_round_trip.same_share() >= 0.99, "{}", by_round_trip.same_share());
    assert!(by_distance.same_share() < 0.95, "{}", by_distance.same_share());
}
