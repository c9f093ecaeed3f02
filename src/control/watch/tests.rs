use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::control::testing::{Directory, GOOD_GEO, World};

/// Long enough that only an event can be meant.
const NEVER: Duration = Duration::from_secs(3600);

fn start(world: &World, poll_every: Duration) -> (watch::Sender<bool>, JoinHandle<()>) {
    let (sender, shutdown) = watch::channel(false);
    let watch = Watch { reloader: Arc::clone(&world.reloader), poll_every };
    (sender, tokio::spawn(async move { watch.start(shutdown).await }))
}

/// Waits until this is so. There is no event to wait for: what is observed are other threads' doings.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 30 s: {what}");
}

/// Touches the directory until the watcher has looked once, so that what follows is seen by it.
async fn watching(world: &World) {
    world.directory.swap_in("edge.toml", world.text(&[1], "# watched?"));
    let hash = world.roster.snapshot().config.hash.clone();
    let mut tries = 0;
    until("the watcher is at work", || {
        tries += 1;
        if tries % 50 == 0 {
            world.directory.write("other.txt", tries.to_string());
        }
        world.roster.snapshot().config.hash != hash
    })
    .await;
}

#[tokio::test]
async fn a_renamed_file_is_seen_and_so_is_one_that_is_written_in_place() {
    let world = World::new("");
    let (end, running) = start(&world, NEVER);
    watching(&world).await;
    world.directory.swap_in("edge.toml", world.text(&[1, 2], ""));
    until("renamed", || world.replicas() == 2).await;
    world.directory.write("edge.toml", world.text(&[1, 2, 3], ""));
    until("written in place", || world.replicas() == 3).await;
    world.directory.swap_in("edge.toml", "broken");
    until("refused", || world.verdicts().iter().any(|(source, _, refused)| source == "file" && *refused == 1)).await;
    world.directory.swap_in("edge.toml", world.text(&[1], ""));
    until("the next good one", || world.replicas() == 1).await;
    end.send(true).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn a_swapped_link_is_seen() {
    let world = World::new("");
    let path = world.directory.path();
    for (version, replicas) in [("v1", vec![1]), ("v2", vec![1, 2])] {
        fs::create_dir(path.join(version)).unwrap();
        fs::write(path.join(version).join("edge.toml"), world.text(&replicas, "")).unwrap();
    }
    symlink("v1", path.join("..data")).unwrap();
    fs::remove_file(path.join("edge.toml")).unwrap();
    symlink("..data/edge.toml", path.join("edge.toml")).unwrap();
    let (_end, _running) = start(&world, NEVER);
    let mut n = 0;
    until("the swap", || {
        // Again and again, since nothing tells when the watcher has begun.
        n += 1;
        if n % 50 == 1 {
            symlink(if n % 100 == 1 { "v2" } else { "v1" }, path.join("..tmp")).unwrap();
            fs::rename(path.join("..tmp"), path.join("..data")).unwrap();
        }
        world.replicas() == 2
    })
    .await;
}

#[tokio::test]
async fn a_new_database_is_seen_in_a_directory_that_a_reload_brought() {
    let world = World::new("");
    let elsewhere = Directory::new();
    let geo = elsewhere.write("geo.mmdb", GOOD_GEO);
    let (_end, _running) = start(&world, NEVER);
    watching(&world).await;
    let named = format!("[geo]\ndatabase = \"{}\"", geo.display());
    world.directory.swap_in("edge.toml", world.text(&[1, 2], &named));
    until("the config", || world.replicas() == 2).await;
    let first = Arc::clone(&world.roster.snapshot().geo);
    let mut n = 0;
    until("the database", || {
        n += 1;
        if n % 50 == 1 {
            elsewhere.swap_in("geo.mmdb", GOOD_GEO);
        }
        !Arc::ptr_eq(&first, &world.roster.snapshot().geo)
    })
    .await;
}

#[tokio::test]
async fn what_no_event_tells_is_found_by_looking() {
    // A chain of links whose middle lies in a directory that is not watched.
    let world = World::new("");
    let (middle, end) = (Directory::new(), Directory::new());
    for (name, replicas) in [("one", vec![1]), ("two", vec![1, 2])] {
        end.write(name, world.text(&replicas, ""));
    }
    symlink(end.path().join("one"), middle.path().join("link")).unwrap();
    let path = world.directory.path().join("edge.toml");
    fs::remove_file(&path).unwrap();
    symlink(middle.path().join("link"), &path).unwrap();
    let (_end, _running) = start(&world, Duration::from_millis(20));
    symlink(end.path().join("two"), middle.path().join("new")).unwrap();
    fs::rename(middle.path().join("new"), middle.path().join("link")).unwrap();
    until("the look", || world.replicas() == 2).await;
}

#[tokio::test]
async fn a_hangup_reloads() {
    let world = World::new("");
    // So that a signal that comes before the watcher listens does not end the tests.
    let _caught = signal(SignalKind::hangup()).unwrap();
    let (_end, _running) = start(&world, NEVER);
    let hangup = format!("kill -HUP {}", std::process::id());
    let mut n = 0;
    until("the verdict", || {
        n += 1;
        if n % 50 == 1 {
            assert!(Command::new("sh").args(["-c", &hangup]).status().unwrap().success());
        }
        world.verdicts().iter().any(|(source, ok, _)| source == "signal" && *ok > 0)
    })
    .await;
}

#[test]
fn reading_the_files_is_no_change() {
    assert!(!matters(EventKind::Access(AccessKind::Open(AccessMode::Any))));
    assert!(!matters(EventKind::Access(AccessKind::Close(AccessMode::Read))));
    assert!(matters(EventKind::Access(AccessKind::Close(AccessMode::Write))));
    assert!(matters(EventKind::Create(notify::event::CreateKind::File)));
}

#[test]
fn a_bare_file_name_lies_in_the_working_directory() {
    assert_eq!(homes(Path::new("no-such.toml")).collect::<Vec<_>>(), [PathBuf::from(".")]);
}
