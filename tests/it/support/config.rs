//! Small configurations.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use nearpool::sim::server::ReplicaHandle;

use super::replicas::SERVED;
use super::scripted::Scripted;

/// One pool.
#[derive(Clone, Debug)]
pub struct Pool {
    name: String,
    region: String,
    model: String,
    lines: Vec<String>,
    replicas: Vec<(String, String)>,
}

impl Pool {
    /// A pool `name` of `model` in `region`, of vLLM's.
    pub fn new(name: &str, region: &str, model: &str) -> Pool {
        Pool { name: name.into(), region: region.into(), model: model.into(), lines: Vec::new(), replicas: Vec::new() }
    }

    /// One more replica.
    pub fn replica(mut self, name: &str, url: &str) -> Pool {
        self.replicas.push((name.into(), url.into()));
        self
    }

    /// These simulated replicas, by their names.
    pub fn sims(mut self, sims: &[&ReplicaHandle]) -> Pool {
        self.replicas.extend(sims.iter().map(|sim| (sim.name().to_owned(), sim.url())));
        self
    }

    /// One more line of the pool's section, for example `max_in_flight = 1`.
    pub fn line(mut self, line: &str) -> Pool {
        self.lines.push(line.into());
        self
    }
}

/// The configuration of one edge. Health checks pause for minutes, so that only traffic tells how a replica is; tests of
/// health checks set `[health] interval`. Engines are not asked for their metrics unless `[engine_metrics] interval` is
/// set.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    name: String,
    home: String,
    /// Name, place, and further keys.
    regions: BTreeMap<String, (f64, f64, String)>,
    models: BTreeMap<String, Vec<String>>,
    steps: Vec<(String, String)>,
    pools: Vec<Pool>,
    /// Section, then key, then value as TOML.
    set: BTreeMap<String, BTreeMap<String, String>>,
    tls: Option<(String, String)>,
}

impl EdgeConfig {
    /// The region `here` and the model `m`, and no pool yet.
    pub fn new() -> EdgeConfig {
        let config = EdgeConfig {
            name: "it".into(),
            home: "here".into(),
            regions: BTreeMap::new(),
            models: BTreeMap::new(),
            steps: Vec::new(),
            pools: Vec::new(),
            set: BTreeMap::new(),
            tls: None,
        };
        config
            .region("here", 37.34, -121.89)
            .model("m", &[&format!("served_as = \"{SERVED}\"")])
            // The shipped database takes an unoptimised binary a fifth of a second to look through.
            .set("geo", "database", concat!("\"", env!("CARGO_MANIFEST_DIR"), "/tests/data/mini-city.mmdb\""))
            .set("health", "interval", "\"10m\"")
            .set("health", "timeout", "\"5s\"")
            .set("engine_metrics", "interval", "\"0s\"")
            .set("timeouts", "connect", "\"5s\"")
            .set("timeouts", "drain_delay", "\"0s\"")
            .set("timeouts", "drain", "\"5s\"")
    }

    /// One pool `near` of the model `m` with these replicas.
    pub fn of(sims: &[&ReplicaHandle]) -> EdgeConfig {
        EdgeConfig::new().pool(Pool::new("near", "here", "m").sims(sims))
    }

    /// One pool `near` of the model `m` with this replica, `scripted`.
    pub fn scripted(replica: &Scripted) -> EdgeConfig {
        EdgeConfig::new().pool(Pool::new("near", "here", "m").replica("scripted", &replica.url()))
    }

    /// The edge's name; it is `it` otherwise.
    pub fn named(mut self, name: &str) -> EdgeConfig {
        self.name = name.into();
        self
    }

    /// One more region.
    pub fn region(self, name: &str, latitude: f64, longitude: f64) -> EdgeConfig {
        self.region_with(name, latitude, longitude, "")
    }

    /// One more region with further keys, for example `, edge = "other"`.
    pub fn region_with(mut self, name: &str, latitude: f64, longitude: f64, more: &str) -> EdgeConfig {
        self.regions.insert(name.into(), (latitude, longitude, more.into()));
        self
    }

    /// One more model, or one with other lines.
    pub fn model(mut self, name: &str, lines: &[&str]) -> EdgeConfig {
        self.models.insert(name.into(), lines.iter().map(|&line| line.to_owned()).collect());
        self
    }

    /// Three regions with one replica each, in a pool `p-REGION` with this line. The edge stands in `here`, in California.
    pub fn in_three_regions(
        here: &ReplicaHandle,
        ireland: &ReplicaHandle,
        singapore: &ReplicaHandle,
        line: &str,
    ) -> EdgeConfig {
        let pool = |region: &str, sim| Pool::new(&format!("p-{region}"), region, "m").sims(&[sim]).line(line);
        EdgeConfig::new()
            .region("ireland", 53.35, -6.26)
            .region("singapore", 1.35, 103.82)
            .pool(pool("here", here))
            .pool(pool("ireland", ireland))
            .pool(pool("singapore", singapore))
    }

    /// Without the model `m`.
    pub fn without_m(mut self) -> EdgeConfig {
        self.models.remove("m");
        self
    }

    /// One more step with its model.
    pub fn step(mut self, name: &str, model: &str) -> EdgeConfig {
        self.steps.push((name.into(), model.into()));
        self
    }

    /// One more pool.
    pub fn pool(mut self, pool: Pool) -> EdgeConfig {
        self.pools.push(pool);
        self
    }

    /// Sets a key of a section; the value is TOML, for example `set("timeouts", "idle", "\"1s\"")`.
    pub fn set(mut self, section: &str, key: &str, value: &str) -> EdgeConfig {
        self.set.entry(section.into()).or_default().insert(key.into(), value.into());
        self
    }

    /// Serves TLS too, with this certificate and key (paths of PEM files).
    pub fn tls(mut self, certificate: &str, key: &str) -> EdgeConfig {
        self.tls = Some((certificate.into(), key.into()));
        self
    }

    /// The whole file for an edge that listens at this address.
    pub fn toml(&self, at: Ipv4Addr) -> String {
        let mut set = self.set.clone();
        let mut text = format!(
            "[edge]\nname = \"{}\"\nregion = \"{}\"\nlisten = [\"{at}:8080\"]\nadmin = \"{at}:9901\"\n\
             admin_token = {{ env = \"NEARPOOL_IT_TOKEN\" }}\n",
            self.name, self.home
        );
        let mut section = |text: &mut String, name: &str| {
            for (key, value) in set.remove(name).unwrap_or_default() {
                writeln!(text, "{key} = {value}").unwrap();
            }
        };
        section(&mut text, "edge");
        if let Some((certificate, key)) = &self.tls {
            writeln!(text, "[edge.tls]\nlisten = [\"{at}:8443\"]\ncertificate = \"{certificate}\"\nkey = \"{key}\"")
                .unwrap();
        }
        text.push_str("[regions]\n");
        for (name, (latitude, longitude, more)) in &self.regions {
            writeln!(text, "{name} = {{ latitude = {latitude:?}, longitude = {longitude:?}{more} }}").unwrap();
        }
        for (name, lines) in &self.models {
            writeln!(text, "[models.\"{name}\"]\n{}", lines.join("\n")).unwrap();
        }
        if !self.steps.is_empty() {
            text.push_str("[steps]\n");
            for (step, model) in &self.steps {
                writeln!(text, "{step} = \"{model}\"").unwrap();
            }
        }
        for pool in &self.pools {
            let Pool { name, region, model, lines, replicas } = pool;
            write!(text, "[[pools]]\nname = \"{name}\"\nregion = \"{region}\"\nmodel = \"{model}\"\n").unwrap();
            if !lines.iter().any(|line| line.starts_with("engine")) {
                text.push_str("engine = \"vllm\"\n");
            }
            for line in lines {
                writeln!(text, "{line}").unwrap();
            }
            let replicas: Vec<_> =
                replicas.iter().map(|(name, url)| format!("{{ name = \"{name}\", url = \"{url}\" }}")).collect();
            writeln!(text, "replicas = [{}]", replicas.join(", ")).unwrap();
        }
        let rest: Vec<String> = self.set.keys().filter(|name| *name != "edge").cloned().collect();
        for name in rest {
            writeln!(text, "[{name}]").unwrap();
            section(&mut text, &name);
        }
        text
    }
}
