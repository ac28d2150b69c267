//! When certificates in files are read again.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::SystemTime;

use super::*;

/// A folder whose `current` leads to one with `chain` and `key`.
struct Files(tempfile::TempDir);

impl Files {
    fn new((chain, key): &(String, String)) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.add("one", (chain, key));
        symlink("one", files.0.path().join("current")).unwrap();
        files
    }

    /// A further folder, whose files are as old as time.
    fn add(&self, folder: &str, (chain, key): (&str, &str)) {
        let folder = self.0.path().join(folder);
        fs::create_dir(&folder).unwrap();
        for (name, text) in [("chain", chain), ("key", key)] {
            fs::write(folder.join(name), text).unwrap();
            let file = File::options().write(true).open(folder.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
    }

    /// `ln -sfn`
    fn switch(&self, folder: &str) {
        let (new, current) = (self.0.path().join("new"), self.0.path().join("current"));
        symlink(folder, &new).unwrap();
        fs::rename(new, current).unwrap();
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.path().join("current").join(name)
    }

    /// As tools do that must not be read half-way.
    fn put(&self, name: &str, text: &str) {
        fs::write(self.place("new"), text).unwrap();
        fs::rename(self.place("new"), self.place(name)).unwrap();
    }

    fn write(&self, (chain, key): &(String, String)) {
        self.put("chain", chain);
        self.put("key", key);
    }

    fn source(&self, name: &str) -> serde_json::Value {
        serde_json::json!({ "filename": self.place(name) })
    }

    /// The listener has the files by its own configuration, the cluster by a secret.
    async fn use_in(&self, resources: &mut Resources) {
        let certificate = serde_json::json!({
            "certificate_chain": self.source("chain"), "private_key": self.source("key"),
        });
        let context = serde_json::json!({ "tls_certificates": [certificate] });
        let (before, _) = LISTENER.split_once("common_tls_context:").unwrap();
        let listener = format!("{before}common_tls_context: {context}\n");
        resources
            .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "front", &listener)
            .await
            .unwrap();
        let yaml = cluster(OWN);
        resources
            .add_yaml::<ClusterMessage>(TypeUrl::CLUSTER, "up", &yaml)
            .await
            .unwrap();
        let secret = serde_json::json!({ "name": "own", "tls_certificate": certificate });
        resources
            .add_yaml::<SecretMessage>(TypeUrl::SECRET, "own", &secret.to_string())
            .await
            .unwrap();
    }
}

/// How many renewals were taken over, and how many refused.
fn counts(resources: &Resources) -> (u64, u64) {
    let stats = &resources.certificate_files.stats;
    (stats.update_success.get(), stats.update_rejected.get())
}

#[tokio::test]
async fn renewed_files_are_in_force_and_broken_ones_are_not() {
    let (mut resources, _, _orders) = resources();
    let (first, second, third) = (certificate(), certificate(), certificate());
    let files = Files::new(&first);
    files.use_in(&mut resources).await;
    let of_first = listed(&resources);
    assert_eq!(of_first.len(), 2, "the listener's and the cluster's");
    // What was not looked at before is read again, which is no renewal.
    resources.look_at_certificates();
    assert_eq!(counts(&resources), (0, 0));
    resources.look_at_certificates();
    assert_eq!(counts(&resources), (0, 0), "nothing has changed");

    files.write(&second);
    resources.look_at_certificates();
    let of_second = listed(&resources);
    assert!(!of_second.iter().any(|serial| of_first.contains(serial)));
    assert_eq!(counts(&resources), (2, 0));

    // A key of another certificate, then no certificate, then no file.
    files.put("key", &third.1);
    resources.look_at_certificates();
    files.put("chain", "none");
    resources.look_at_certificates();
    fs::remove_file(files.place("chain")).unwrap();
    resources.look_at_certificates();
    resources.look_at_certificates();
    assert_eq!(listed(&resources), of_second, "the last good ones stay");
    assert_eq!(counts(&resources), (2, 6), "each reason is told once");

    files.write(&third);
    resources.look_at_certificates();
    assert_eq!(counts(&resources), (4, 6));
    let of_third = listed(&resources);
    assert!(!of_third.iter().any(|serial| of_second.contains(serial)));
}

#[tokio::test]
async fn files_that_change_before_the_first_look_are_read_again() {
    let (mut resources, _, _orders) = resources();
    let (first, second) = (certificate(), certificate());
    let files = Files::new(&first);
    files.add("two", (&second.0, &second.1));
    files.use_in(&mut resources).await;
    let of_first = listed(&resources);
    files.switch("two");
    resources.look_at_certificates();
    let of_second = listed(&resources);
    assert_eq!(of_second.len(), 2);
    assert!(!of_second.iter().any(|serial| of_first.contains(serial)));
}

#[tokio::test]
async fn a_renewal_that_failed_is_tried_again() {
    let (mut resources, _, _orders) = resources();
    let (first, second) = (certificate(), certificate());
    let files = Files::new(&first);
    files.use_in(&mut resources).await;
    resources.look_at_certificates();
    let of_first = listed(&resources);
    files.put("key", &second.1);
    resources.look_at_certificates();
    resources.look_at_certificates();
    assert_eq!(counts(&resources), (0, 2), "the same reason is told once");
    files.write(&second);
    // As if they had become readable without a trace.
    resources.certificate_files.changed();
    resources.look_at_certificates();
    let of_second = listed(&resources);
    assert!(!of_second.iter().any(|serial| of_first.contains(serial)));
    assert_eq!(counts(&resources), (2, 2));
    resources.look_at_certificates();
    assert_eq!(counts(&resources), (2, 2), "once");
}

#[tokio::test]
async fn new_permissions_are_a_change() {
    let (mut resources, _, _orders) = resources();
    let files = Files::new(&certificate());
    files.use_in(&mut resources).await;
    resources.look_at_certificates();
    assert!(resources.certificate_files.changed().is_empty());
    for mode in [0o600, 0o640] {
        // The clock of a file system moves on every few milliseconds.
        tokio::time::sleep(Duration::from_millis(20)).await;
        fs::set_permissions(files.place("key"), PermissionsExt::from_mode(mode)).unwrap();
        let changed = resources.certificate_files.changed();
        assert_eq!(changed.len(), 1, "{changed:?} after {mode:o}");
    }
}
