//! Where a client is, and whose word on it counts. `mini-city.mmdb` puts 127.1.0.0/16 to 127.10.0.0/16 on the map.

use std::net::Ipv4Addr;

use nearpool::sim::server::ReplicaHandle;
use serde_json::json;

use crate::support::{
    Answer, Edge, EdgeConfig, H2, Http1, IRELAND, Pool, SERVED, calls, chat, post_with, sim_with, soon, unheard, with,
};

const CHAT: &str = "/v1/chat/completions";
/// In no database; what stands there is trusted.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 200, 0, 1);

/// Where the regions of these tests lie; the edge stands in `here`, in California.
const REGIONS: [(&str, f64, f64); 9] = [
    ("here", 37.34, -121.89),
    ("virginia", 39.04, -77.49),
    ("ireland", 53.35, -6.26),
    ("singapore", 1.35, 103.82),
    ("frankfurt", 50.11, 8.68),
    ("tokyo", 35.68, 139.69),
    ("sao-paulo", -23.55, -46.63),
    ("london", 51.51, -0.13),
    ("zurich", 47.38, 8.54),
];

/// An edge with one replica in each of these regions.
struct World {
    edge: Edge,
    replicas: Vec<ReplicaHandle>,
}

impl World {
    async fn start(regions: &[&str], change: impl FnOnce(EdgeConfig) -> EdgeConfig) -> World {
        let mut config = EdgeConfig::new().set("edge", "trusted_proxies", "[\"127.200.0.0/24\"]");
        let mut replicas = Vec::new();
        for (name, latitude, longitude) in REGIONS.into_iter().filter(|(name, ..)| regions.contains(name)) {
            let replica = sim_with(name, |params| params.log_requests = 128).await;
            let pool = Pool::new(&format!("p-{name}"), name, "m").sims(&[&replica]);
            config = config.region(name, latitude, longitude).pool(pool);
            replicas.push(replica);
        }
        World { edge: Edge::start(change(config)).await, replicas }
    }

    async fn call(&self, from: Ipv4Addr, headers: &[(&str, &str)]) -> Answer {
        let mut client = Http1::connect_from(from, self.edge.agents()).await;
        client.call(&post_with(CHAT, headers, &chat(&unheard(), 1))).await
    }

    /// The region that answers a client, and what the log says of where it is: `IE peer`.
    async fn place(&self, from: Ipv4Addr, headers: &[(&str, &str)]) -> (String, String) {
        let answer = self.call(from, headers).await;
        assert_eq!((answer.status, answer.header("x-nearpool-reason")), (200, Some("new")), "{from} {headers:?}");
        let id = answer.header("x-request-id").unwrap().to_owned();
        let line = self.edge.wait_for_log(|line| line["request_id"] == id.as_str()).await;
        let word = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        (
            answer.header("x-nearpool-region").unwrap().to_owned(),
            format!("{} {}", word("country"), word("place_source")),
        )
    }

    async fn check(&self, from: Ipv4Addr, headers: &[(&str, &str)], region: &str, known: &str) {
        let place = self.place(from, headers).await;
        assert_eq!(place, (region.to_owned(), known.to_owned()), "{from} {headers:?}");
    }
}

#[tokio::test]
async fn clients_of_every_network_land_in_the_region_nearest_to_them() {
    let all = REGIONS.map(|(name, ..)| name);
    let world = World::start(&all, |config| config).await;
    for (network, region, country) in [
        (1, "here", "US"),
        (2, "virginia", "US"),
        (3, "ireland", "IE"),
        (4, "singapore", "SG"),
        (5, "frankfurt", "DE"),
        (6, "tokyo", "JP"),
        (7, "sao-paulo", "BR"),
        (8, "london", "GB"),
        (9, "virginia", "US"), // somewhere in the country: where most of its people are near
        (10, "zurich", "CH"),
    ] {
        for host in [[0, 1], [255, 254]] {
            let from = Ipv4Addr::new(127, network, host[0], host[1]);
            world.check(from, &[], region, &format!("{country} peer")).await;
        }
    }
    for nowhere in [[0, 0, 1], [100, 64, 1], [200, 7, 7]] {
        world.check(Ipv4Addr::new(127, nowhere[0], nowhere[1], nowhere[2]), &[], "here", "- peer").await;
    }
    for (result, count) in [("found", 20.0), ("private", 3.0), ("unknown", 0.0), ("error", 0.0)] {
        let series = format!("nearpool_geo_lookups_total{{result=\"{result}\"}}");
        assert_eq!(world.edge.metric(&series).await, count, "{result}");
    }
}

#[tokio::test]
async fn a_place_header_is_believed_of_nobody_unless_it_is_named_and_goes_no_further() {
    let world = World::start(&["here", "tokyo"], |config| config).await;
    let claims = [("cf-ipcountry", "JP"), ("cloudfront-viewer-country", "JP"), ("x-appengine-country", "JP")];
    world.check(PROXY, &claims, "here", "- peer").await;
    let sent = world.replicas[0].requests();
    let sent = sent.iter().find(|request| request.path == CHAT).unwrap();
    assert!(claims.iter().all(|(name, _)| sent.headers.iter().all(|(sent, _)| sent != name)), "{sent:?}");
}

/// What a client may claim: that it is in Japan, in every header that anybody believes.
const CLAIMS: [(&str, &str); 19] = [
    ("x-forwarded-for", "127.6.0.1"),
    ("x-forwarded-for", "127.6.0.1, 127.200.0.1"),
    ("x-forwarded-for", "127.200.0.2"),
    ("x-forwarded-for", "unknown"),
    ("forwarded", "for=127.6.0.1"),
    ("forwarded", "for=\"127.6.0.1:80\";by=127.200.0.1, for=127.200.0.2"),
    ("forwarded", "for=_hidden"),
    ("cf-ipcountry", "JP"),
    ("cf-ipcountry", "T1"),
    ("cf-iplatitude", "35.68"),
    ("cf-iplongitude", "139.69"),
    ("cloudfront-viewer-country", "JP"),
    ("cloudfront-viewer-latitude", "35.68"),
    ("cloudfront-viewer-longitude", "139.69"),
    ("x-appengine-country", "JP"),
    ("x-appengine-citylatlong", "35.68,139.69"),
    ("x-geo-country", "JP"),
    ("x-real-ip", "127.6.0.1"),
    ("true-client-ip", "127.6.0.1"),
];

#[tokio::test]
async fn what_an_untrusted_peer_claims_changes_nothing_and_goes_no_further() {
    let sets = "[\"cloudflare\", \"cloudfront\", \"appengine\", { country = \"X-Geo-Country\" }]";
    let world = World::start(&["here", "ireland", "tokyo"], |config| config.set("geo", "headers", sets)).await;
    let mut claims: Vec<Vec<(&str, &str)>> = CLAIMS.iter().map(|claim| vec![*claim]).collect();
    // Several lines of one header, all that are different at once, and everything twice.
    claims.extend(CLAIMS.iter().map(|claim| vec![*claim, *claim]));
    let mut names: Vec<_> = CLAIMS.to_vec();
    names.dedup_by_key(|(name, _)| *name);
    claims.push(names);
    claims.push([CLAIMS, CLAIMS].concat());
    let mut h2 = H2::over(soon(socket_from(IRELAND, &world.edge)).await).await;
    for claim in &claims {
        world.check(IRELAND, claim, "ireland", "IE peer").await;
        let answer = h2.call(CHAT, claim, &chat(&unheard(), 1)).await;
        assert_eq!((answer.status, answer.header("x-nearpool-region")), (200, Some("ireland")), "h2c {claim:?}");
    }
    let ireland = world.replicas.iter().find(|replica| replica.name() == "ireland").unwrap();
    let seen = calls(ireland);
    assert_eq!(seen.len(), 2 * claims.len());
    for call in seen {
        for (name, _) in CLAIMS.iter().filter(|(name, _)| *name != "x-forwarded-for") {
            assert!(!call.headers.contains_key(*name), "{name} went upstream");
        }
        let told: Vec<_> =
            call.headers.get_all("x-forwarded-for").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(told, ["127.3.0.1"]);
    }
}

async fn socket_from(from: Ipv4Addr, edge: &Edge) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(edge.agents()).await.unwrap()
}

#[tokio::test]
async fn a_trusted_peer_is_believed_as_far_as_it_can_know() {
    let sets = "[\"cloudflare\", \"cloudfront\", \"appengine\"]";
    let world =
        World::start(&["here", "ireland", "tokyo", "frankfurt"], |config| config.set("geo", "headers", sets)).await;
    let (xff, forwarded) = ("x-forwarded-for", "forwarded");
    for (headers, region, known) in [
        // Whom the proxies name; what stands left of the client is its own claim.
        (&[(xff, "127.6.0.1")][..], "tokyo", "JP x_forwarded_for"),
        (&[(xff, "127.6.0.1, 127.3.0.1, 127.200.0.9")], "ireland", "IE x_forwarded_for"),
        (&[(xff, "127.6.0.1"), (xff, "127.3.0.1")], "ireland", "IE x_forwarded_for"),
        (&[(xff, "::ffff:127.3.0.1")], "ireland", "IE x_forwarded_for"),
        (&[(xff, "64:ff9b::7f03:1")], "ireland", "IE x_forwarded_for"),
        (&[(xff, "10.1.2.3")], "here", "- x_forwarded_for"),
        (&[(forwarded, "for=127.6.0.1, For=\"127.3.0.1:4711\";proto=https")], "ireland", "IE forwarded"),
        (&[(forwarded, "for=127.6.0.1"), (forwarded, "for=\"[::ffff:7f03:1]:1\"")], "ireland", "IE forwarded"),
        // Whom they hide is nowhere.
        (&[(xff, "127.6.0.1, unknown")], "here", "- x_forwarded_for"),
        (&[(forwarded, "for=127.6.0.1, for=_hidden")], "here", "- forwarded"),
        // Both headers: the one that the proxy did not write is the client's.
        (&[(xff, "127.3.0.1"), (forwarded, "for=127.3.0.1")], "ireland", "IE forwarded"),
        (&[(xff, "127.3.0.1"), (forwarded, "for=127.6.0.1")], "here", "- peer"),
        // What is said of the place itself goes first, and in the order of the config.
        (&[(xff, "127.3.0.1"), ("cf-ipcountry", "JP")], "tokyo", "JP place_header"),
        (&[("cf-ipcountry", "XX"), ("cloudfront-viewer-country", "DE")], "frankfurt", "DE place_header"),
        (&[("cf-ipcountry", "DE"), ("cloudfront-viewer-country", "JP")], "frankfurt", "DE place_header"),
        (
            &[("cloudfront-viewer-latitude", "35.6"), ("cloudfront-viewer-longitude", "139.7")],
            "tokyo",
            "- place_header",
        ),
        (&[("x-appengine-country", "jp"), ("x-appengine-citylatlong", "35.6,139.7")], "tokyo", "JP place_header"),
        (&[("x-appengine-country", "ZZ"), ("x-appengine-citylatlong", "0.000000,0.000000")], "here", "- peer"),
        (&[(xff, "127.3.0.1"), ("cf-ipcountry", "T1")], "here", "- place_header"),
        // Not what stands twice, nor what nobody configured.
        (&[(xff, "127.3.0.1"), ("cf-ipcountry", "JP"), ("cf-ipcountry", "JP")], "ireland", "IE x_forwarded_for"),
        (&[(xff, "127.3.0.1"), ("x-geo-country", "JP")], "ireland", "IE x_forwarded_for"),
        (&[], "here", "- peer"),
    ] {
        world.check(PROXY, headers, region, known).await;
    }
}

#[tokio::test]
async fn a_client_that_is_nearer_to_another_edge_is_told_so_on_every_answer() {
    let world = World::start(&["here", "ireland", "tokyo"], |config| {
        let config = config.set("geo", "headers", "[\"cloudflare\"]");
        let config = config
            .model("deaf", &[&format!("served_as = \"{SERVED}\"")])
            .pool(
                Pool::new("deaf", "here", "deaf")
                    .replica("deaf", "http://127.0.0.1:9")
                    .line("dialects = [\"embeddings\"]"),
            )
            .set("timeouts", "keep_alive_comment", "\"100ms\"");
        let config = config.region_with("here", 37.34, -121.89, ", edge = \"it\"");
        config.region_with("ireland", 53.35, -6.26, ", edge = \"irish-edge\"")
    })
    .await;
    let told = async |from: Ipv4Addr, headers: &[(&str, &str)]| {
        world.call(from, headers).await.header("x-nearpool-nearest-edge").map(str::to_owned)
    };
    let german = Ipv4Addr::new(127, 5, 0, 1);
    for from in [IRELAND, german, german] {
        assert_eq!(told(from, &[]).await.as_deref(), Some("irish-edge"), "{from}");
    }
    // Tokyo has no edge, and ours is as near as any; the others are at home or nowhere.
    for from in [[1, 0, 1], [6, 0, 1], [9, 0, 1], [200, 7, 7]] {
        assert_eq!(told(Ipv4Addr::new(127, from[0], from[1], from[2]), &[]).await, None, "{from:?}");
    }
    // A code that no country has is no label.
    let nobodys = [("cf-ipcountry", "QQ"), ("cf-iplatitude", "53.3"), ("cf-iplongitude", "-6.2")];
    assert_eq!(told(PROXY, &nobodys).await.as_deref(), Some("irish-edge"));
    // Refusals say so too, and streams that are opened before anything is known of their answer.
    let mut client = Http1::connect_from(IRELAND, world.edge.agents()).await;
    let refused = client.call(&post_with(CHAT, &[], &with(chat("x", 1), json!({"model": "deaf"})))).await;
    assert_eq!((refused.status, refused.header("x-nearpool-nearest-edge")), (400, Some("irish-edge")));
    let slow = json!({"stream": true, "sim": {"tokens": 1, "prefill_ms": 600_000}});
    client.send(&post_with(CHAT, &[], &with(chat(&unheard(), 1), slow))).await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("x-nearpool-region")), (200, None));
    assert_eq!(head.header("x-nearpool-nearest-edge"), Some("irish-edge"));
    for (country, count) in [("IE", 3.0), ("DE", 2.0), ("other", 1.0), ("US", 0.0), ("JP", 0.0), ("QQ", 0.0)] {
        let series = format!("nearpool_misdirected_total{{country=\"{country}\"}}");
        assert_eq!(world.edge.metric(&series).await, count, "{country}");
    }
}
