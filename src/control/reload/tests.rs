use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::control::testing::{Directory, GOOD_GEO, World};

const TOKEN: &str = r#"admin_token = { env = "TOKEN" }"#;
const GEO: &str = "[geo]\ndatabase = \"{dir}/geo.mmdb\"";

/// Verdicts as `(source, ok, refused)`.
#[track_caller]
fn check_verdicts(world: &World, expected: &[(&str, u64, u64)]) {
    let expected: Vec<_> = expected.iter().map(|(source, ok, no)| ((*source).to_owned(), *ok, *no)).collect();
    assert_eq!(world.verdicts(), expected);
}

fn with_geo() -> World {
    let directory = Directory::new();
    directory.write("geo.mmdb", GOOD_GEO);
    World::with(GEO, directory, Box::new(|_| Ok(Box::new(|| ()))))
}

#[test]
fn a_good_file_is_taken_a_bad_one_refused_and_the_next_good_one_taken() {
    let world = World::new("");
    world.directory.swap_in("edge.toml", world.text(&[1, 2], ""));
    assert!(world.reloader.reload(ReloadSource::Signal).unwrap().changed);
    assert_eq!(world.replicas(), 2);

    world.directory.swap_in("edge.toml", world.text(&[1, 2, 3], "regoin = \"here\""));
    let error = world.reloader.reload(ReloadSource::Signal).unwrap_err().to_string();
    assert!(error.contains("regoin") && error.contains("edge.toml:"), "{error}");
    assert_eq!(world.replicas(), 2, "the last good one stays");

    world.directory.swap_in("edge.toml", world.text(&[1, 2, 3], ""));
    let applied = world.reloader.reload(ReloadSource::Signal).unwrap();
    assert_eq!(applied.hash, world.roster.snapshot().config.hash);
    assert_eq!(world.replicas(), 3);
    check_verdicts(&world, &[("signal", 2, 1)]);
    let text = world.metrics.render(&world.registry);
    assert!(text.contains(&format!("nearpool_config_info{{hash=\"{}\"}} 1", applied.hash)), "{text}");
}

#[test]
fn what_runs_already_is_no_change() {
    let world = World::new("");
    let before = world.roster.snapshot();
    assert!(!world.reloader.reload(ReloadSource::Post).unwrap().changed);
    assert!(Arc::ptr_eq(&before, &world.roster.snapshot()), "nothing was swapped");
    check_verdicts(&world, &[("post", 1, 0)]);
}

#[test]
fn the_watcher_judges_each_state_of_the_file_once() {
    let world = World::new("");
    assert!(world.reloader.reload_if_new().is_none(), "what was loaded at the start is known");
    for round in 1..=33 {
        for replicas in [vec![1, 2], vec![1, 2, 3]] {
            world.directory.swap_in("edge.toml", world.text(&replicas, &format!("# {round}")));
            assert!(world.reloader.reload_if_new().unwrap().unwrap().changed);
            assert!(world.reloader.reload_if_new().is_none());
        }
        world.directory.swap_in("edge.toml", "[edge");
        assert!(world.reloader.reload_if_new().unwrap().is_err());
        assert!(world.reloader.reload_if_new().is_none());
    }
    assert_eq!(world.replicas(), 3);
    check_verdicts(&world, &[("file", 66, 33)]);
}

#[test]
fn a_swapped_link_is_a_new_file() {
    // As Kubernetes does it: edge.toml → ..data/edge.toml, and ..data → a directory that is exchanged.
    let world = World::new("");
    let path = world.directory.path();
    for (version, replicas) in [("v1", vec![1, 2]), ("v2", vec![1, 2, 3])] {
        fs::create_dir(path.join(version)).unwrap();
        fs::write(path.join(version).join("edge.toml"), world.text(&replicas, "")).unwrap();
        symlink(version, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        if version == "v1" {
            fs::remove_file(path.join("edge.toml")).unwrap();
            symlink("..data/edge.toml", path.join("edge.toml")).unwrap();
        }
        assert!(world.reloader.reload_if_new().unwrap().unwrap().changed);
        assert_eq!(world.replicas(), replicas.len());
    }
}

#[test]
fn a_file_that_is_gone_or_too_long_changes_nothing() {
    let world = World::new("");
    fs::remove_file(world.directory.path().join("edge.toml")).unwrap();
    let error = world.reloader.reload_if_new().unwrap().unwrap_err().to_string();
    assert!(error.contains("no such file"), "{error}");
    world.directory.write("edge.toml", "#".repeat(config::FILE_BYTES_MAX + 1));
    // Unreadable before, unreadable now: no news for the watcher, but an answer for who asks.
    let error = world.reloader.reload(ReloadSource::Post).unwrap_err().to_string();
    assert!(error.contains("1 MiB"), "{error}");
    assert_eq!(world.replicas(), 1);
}

#[test]
fn a_listener_needs_a_restart() {
    let world = World::new("");
    let moved = world.text(&[1, 2], "").replace("127.0.0.1:8080", "127.0.0.1:8081");
    world.directory.swap_in("edge.toml", moved);
    let error = world.reloader.reload(ReloadSource::Signal).unwrap_err().to_string();
    assert_eq!(error, "needs a restart (upgrade): edge.listen changed");
    assert_eq!(world.replicas(), 1);
}

#[test]
fn a_new_database_is_taken_and_a_broken_one_never_replaces_a_good_one() {
    let world = with_geo();
    let first = Arc::clone(&world.roster.snapshot().geo);
    world.directory.swap_in("geo.mmdb", GOOD_GEO);
    assert!(world.reloader.reload_if_new().unwrap().unwrap().changed);
    let second = Arc::clone(&world.roster.snapshot().geo);
    assert!(!Arc::ptr_eq(&first, &second));

    world.directory.swap_in("geo.mmdb", "broken");
    let error = world.reloader.reload_if_new().unwrap().unwrap_err().to_string();
    assert!(error.starts_with("the GeoIP database cannot be used") && error.contains("geo.mmdb"), "{error}");
    assert!(world.reloader.reload_if_new().is_none());
    assert!(Arc::ptr_eq(&second, &world.roster.snapshot().geo));
    check_verdicts(&world, &[("geo", 1, 1)]);

    // A new config is taken with the database that is at hand.
    world.directory.swap_in("edge.toml", world.text(&[1, 2], GEO));
    assert!(world.reloader.reload_if_new().unwrap().unwrap().changed);
    assert_eq!(world.replicas(), 2);
    assert!(Arc::ptr_eq(&second, &world.roster.snapshot().geo));
    assert!(world.reloader.reload_if_new().is_none());
    check_verdicts(&world, &[("file", 1, 0), ("geo", 1, 2)]);

    world.directory.swap_in("geo.mmdb", GOOD_GEO);
    assert!(world.reloader.reload_if_new().unwrap().unwrap().changed);
    assert!(!Arc::ptr_eq(&second, &world.roster.snapshot().geo));
}

/// The good database, damaged in many ways: cut short, bytes flipped everywhere, values of other types, other contents.
fn damaged() -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(), b"<html>503</html>".to_vec(), vec![0; 4096], vec![0xff; 4096]];
    all.extend((0..250).map(|n| GOOD_GEO[..n * GOOD_GEO.len() / 250].to_vec()));
    for n in 0..400 {
        let (mut bytes, at) = (GOOD_GEO.to_vec(), n * 7919 % GOOD_GEO.len());
        bytes[at] ^= 1 << (n % 8);
        all.push(bytes);
    }
    // Every key's value, in turn, of every type that a byte can tell.
    for key in
        ["country", "iso_code", "latitude", "longitude", "accuracy_radius", "node_count", "ip_version", "build_epoch"]
    {
        for control in [0x00, 0x04, 0x24, 0x42, 0x68, 0x82, 0xa1, 0xc4, 0xe1, 0xff] {
            let mut bytes = GOOD_GEO.to_vec();
            for at in memchr::memmem::find_iter(GOOD_GEO, key) {
                bytes[at + key.len()] = control;
            }
            all.push(bytes);
        }
    }
    // A database of another kind: no key is one that we know.
    let mut other = GOOD_GEO.to_vec();
    for key in ["country", "registered_country", "location", "continent", "country_code", "latitude"] {
        memchr::memmem::find_iter(GOOD_GEO, key).for_each(|at| other[at] = b'x');
    }
    all.push(other);
    all
}

#[test]
fn no_damaged_database_replaces_a_good_one() {
    let world = with_geo();
    let address = "127.3.0.1".parse().unwrap();
    let (mut in_force, mut refused) = (Arc::clone(&world.roster.snapshot().geo), 0);
    let dublin = in_force.lookup(address).unwrap();
    let damaged = damaged();
    assert!(damaged.len() >= 700, "{}", damaged.len());
    for (n, bytes) in damaged.into_iter().enumerate() {
        world.directory.swap_in("geo.mmdb", bytes);
        let now = match world.reloader.reload(ReloadSource::Geo) {
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("GeoIP") && error.contains("geo.mmdb") && !error.contains('\n'), "{n}: {error}");
                refused += 1;
                let now = Arc::clone(&world.roster.snapshot().geo);
                assert!(Arc::ptr_eq(&in_force, &now), "{n}");
                now
            }
            // A flipped bit may have made another place of a place: what is taken can be read.
            Ok(_) => Arc::clone(&world.roster.snapshot().geo),
        };
        let _never_panics = now.lookup(address);
        in_force = now;
    }
    assert!(refused >= 500, "{refused} refused");
    let last = world.reloader.history().swap_remove(0).error.unwrap();
    assert!(last.contains("holds neither countries nor places"), "{last}");
    world.directory.swap_in("geo.mmdb", GOOD_GEO);
    assert!(world.reloader.reload(ReloadSource::Geo).unwrap().changed);
    assert_eq!(world.roster.snapshot().geo.lookup(address).unwrap(), dublin);
}

#[test]
fn a_config_that_names_a_broken_database_is_refused() {
    let world = World::new("");
    world.directory.write("geo.mmdb", "broken");
    world.directory.swap_in("edge.toml", world.text(&[1, 2], GEO));
    assert!(world.reloader.reload_if_new().unwrap().is_err());
    assert_eq!(world.replicas(), 1);
    // The file that it names is not watched yet, but whoever mends it can ask.
    world.directory.swap_in("geo.mmdb", GOOD_GEO);
    assert!(world.reloader.reload(ReloadSource::Post).unwrap().changed);
    assert!(world.reloader.reload_if_new().is_none(), "all of it is known now");
}

#[test]
fn a_rotated_secret_is_taken_though_the_config_says_the_same() {
    let directory = Directory::new();
    directory.write("token", "first");
    let edge = r#"admin_token = { file = "{dir}/token" }"#;
    let world = World::with(edge, directory, Box::new(|_| Ok(Box::new(|| ()))));
    let token = || world.roster.snapshot().config.admin_token.clone().unwrap().0;
    assert_eq!(token(), "first");
    world.directory.swap_in("token", "second");
    assert!(world.reloader.reload_if_new().unwrap().unwrap().changed);
    assert_eq!(token(), "second");
    assert!(world.reloader.reload_if_new().is_none());
}

#[test]
fn a_push_of_what_runs_takes_a_rotated_secret_too() {
    let directory = Directory::new();
    directory.write("token", "first");
    let edge = r#"admin_token = { file = "{dir}/token" }"#;
    let world = World::with(edge, directory, Box::new(|_| Ok(Box::new(|| ()))));
    let text = fs::read_to_string(world.directory.path().join("edge.toml")).unwrap();
    world.directory.swap_in("token", "second");
    // Before the watcher looks.
    assert!(world.reloader.push(&text).unwrap().changed);
    assert!(world.reloader.reload_if_new().is_none());
    assert_eq!(world.roster.snapshot().config.admin_token.clone().unwrap().0, "second");
}

#[test]
fn what_belongs_to_a_config_is_prepared_first_and_committed_with_it() {
    let committed = Arc::new(AtomicUsize::new(0));
    let broken = Arc::new(AtomicBool::new(false));
    let (count, is_broken) = (Arc::clone(&committed), Arc::clone(&broken));
    let prepare: Prepare = Box::new(move |_| {
        if is_broken.load(Ordering::SeqCst) {
            return Err("the certificate cannot be used".to_owned());
        }
        let count = Arc::clone(&count);
        Ok(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }))
    });
    let world = World::with("", Directory::new(), prepare);
    world.directory.swap_in("edge.toml", world.text(&[1, 2], ""));
    world.reloader.reload(ReloadSource::Post).unwrap();
    assert_eq!(committed.load(Ordering::SeqCst), 1);

    broken.store(true, Ordering::SeqCst);
    world.directory.swap_in("edge.toml", world.text(&[1, 2, 3], ""));
    let error = world.reloader.reload(ReloadSource::Post).unwrap_err().to_string();
    assert_eq!(error, "the certificate cannot be used");
    assert_eq!((committed.load(Ordering::SeqCst), world.replicas()), (1, 2));

    // Refused for another reason, nothing is committed either.
    broken.store(false, Ordering::SeqCst);
    world.directory.swap_in("edge.toml", "broken");
    assert!(world.reloader.reload(ReloadSource::Post).is_err());
    assert_eq!(committed.load(Ordering::SeqCst), 1);
}

#[test]
fn a_pushed_config_is_on_disk_before_it_is_in_force_and_no_news_after() {
    let world = World::new(TOKEN);
    let text = world.text(&[1, 2], TOKEN);
    let applied = world.reloader.push(&text).unwrap();
    assert!(applied.changed);
    assert_eq!(world.replicas(), 2);
    assert_eq!(fs::read_to_string(world.directory.path().join("edge.toml")).unwrap(), text);
    assert!(world.reloader.reload_if_new().is_none(), "the watcher knows its hash");
    assert!(!world.reloader.push(&text).unwrap().changed);
    check_verdicts(&world, &[("push", 2, 0)]);
}

#[test]
fn a_pushed_config_mends_a_broken_file() {
    let world = World::new(TOKEN);
    let text = world.text(&[1], TOKEN);
    world.directory.swap_in("edge.toml", "broken");
    assert!(world.reloader.reload_if_new().unwrap().is_err());
    assert!(!world.reloader.push(&text).unwrap().changed, "it is what runs");
    assert_eq!(fs::read_to_string(world.directory.path().join("edge.toml")).unwrap(), text);
    assert!(world.reloader.reload_if_new().is_none());
}

#[test]
fn a_pushed_config_that_is_refused_leaves_the_file() {
    let world = World::new(TOKEN);
    let on_disk = fs::read_to_string(world.directory.path().join("edge.toml")).unwrap();
    let moved = world.text(&[1], TOKEN).replace("127.0.0.1:8080", "127.0.0.1:8081");
    let reads_a_file = world.text(&[1], r#"admin_token = { file = "/etc/passwd" }"#);
    let reads_env = world.text(&[1], r#"admin_token = { env = "HOME" }"#);
    for pushed in ["broken", &moved, &reads_a_file, &reads_env] {
        assert!(world.reloader.push(pushed).is_err(), "{pushed}");
        assert_eq!(fs::read_to_string(world.directory.path().join("edge.toml")).unwrap(), on_disk);
    }
    assert!(world.reloader.reload_if_new().is_none());
    check_verdicts(&world, &[("push", 0, 4)]);
}

#[test]
fn a_push_that_the_disk_refuses_changes_nothing() {
    let world = World::new(TOKEN);
    let path = world.directory.path().join("edge.toml");
    fs::remove_file(&path).unwrap();
    let error = world.reloader.push(&world.text(&[1, 2], TOKEN)).unwrap_err();
    assert!(matches!(error, ReloadError::Write { .. }), "{error}");
    assert_eq!(world.replicas(), 1);
}

#[test]
fn the_history_is_bounded_and_newest_first() {
    let world = World::new("");
    for _ in 0..HISTORY_MAX {
        world.reloader.reload(ReloadSource::Signal).unwrap();
    }
    world.directory.swap_in("edge.toml", "broken");
    world.reloader.reload(ReloadSource::Post).unwrap_err();
    let history = world.reloader.history();
    assert_eq!(history.len(), HISTORY_MAX);
    assert_eq!(history[0].source, "post");
    assert!(history[0].error.as_deref().unwrap().contains("edge.toml"), "{:?}", history[0]);
    assert_eq!(history[1].error, None);
}
