use super::*;
use crate::disk::tests::UNWRITABLE;

const DAY: Duration = Duration::from_hours(24);

fn options() -> OwnOptions {
    OwnOptions {
        trust_domain: TrustDomain::parse("cluster.local").expect("valid"),
        key: KeyKind::P256,
        root_lifetime: 10 * DAY,
        spread: DAY,
        longest: 2 * DAY,
    }
}

fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.expect("after 1970").as_secs())
}

fn files(path: &Path) -> Vec<String> {
    let all = std::fs::read_dir(path).expect("readable").flatten();
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let start = now();
    let (mut own, _) = OwnFolder::open(&path, options(), start).expect("made");
    OwnFolder::ask_rotation(&path).expect("written");
    let before = files(&path);
    UNWRITABLE.set(ROOTS);
    for _ in 0..3 {
        assert!(own.poll(start).is_err(), "it cannot be written");
        own.rotate(start).expect_err("it cannot be written");
        assert_eq!(files(&path), before, "no root that nobody knows");
    }
    UNWRITABLE.set("");
    own.poll(start).expect("written").expect("changed");
}

#[test]
fn of_many_that_start_at_once_all_have_one_root() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let start = now();
    let opened: Vec<(OwnFolder, State)> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| OwnFolder::open(&path, options(), start)))
            .collect();
        let all = all.into_iter().map(|one| one.join().expect("ended"));
        all.collect::<Result<_, _>>().expect("made")
    });
    let keys = |count| {
        let names = files(&path);
        let keys = names.iter().filter(|name| name.ends_with("-key.pem"));
        assert_eq!(keys.count(), count, "{names:?}");
    };
    keys(1);
    let (_, first) = &opened[0];
    assert!(opened.iter().all(|(_, state)| state.bundle == first.bundle));
    // Time for the next one: each looks, one makes it.
    let due = start + 9 * DAY;
    let polled: Vec<State> = std::thread::scope(|scope| {
        let all: Vec<_> = (opened.into_iter())
            .map(|(mut own, _)| scope.spawn(move || own.poll(due)))
            .collect();
        let all = all.into_iter().map(|one| one.join().expect("ended"));
        all.map(|one| one.expect("readable").expect("changed"))
            .collect()
    });
    keys(2);
    let bundle = &polled[0].bundle;
    assert_eq!(bundle.certificates().len(), 2);
    assert!(polled.iter().all(|state| state.bundle == *bundle));
}

fn signs(state: &State) -> &CertificateDer<'static> {
    match &state.signer {
        Signer::Own(issuer) => issuer.certificate(),
        Signer::External(_) => panic!("it is its own"),
    }
}

#[test]
fn a_root_that_ended_while_nobody_was_here_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let start = now();
    let (mut own, first) = OwnFolder::open(&path, options(), start).expect("made");
    // The next one is made, and does not sign yet when the first one ends.
    let both = own.poll(start + 9 * DAY).expect("readable");
    let both = both.expect("changed").bundle;
    let next = both.certificates().get(1).expect("the next one").clone();
    drop(own);
    let late = start + 11 * DAY;
    let (_, second) = OwnFolder::open(&path, options(), late).expect("it goes on");
    assert_eq!(signs(&second), &next, "what proxies have heard of");
    assert!(second.bundle.certificates().contains(signs(&first)));
    // It ends, too, and there is none after it.
    let later = start + 20 * DAY;
    let (_, third) = OwnFolder::open(&path, options(), later).expect("it goes on");
    assert!(![signs(&first), &next].contains(&signs(&third)));
    let expires = expiry_of(signs(&third));
    assert_eq!(expires, later + 10 * DAY);
    let written = std::fs::read(path.join(BUNDLE)).expect("written");
    assert_eq!(written, **third.bundle.pem());
    let (_, same) = OwnFolder::open(&path, options(), later).expect("readable");
    assert_eq!(signs(&same), signs(&third), "it is kept");
}

fn expiry_of(root: &CertificateDer<'_>) -> SystemTime {
    life(root).1
}
