//! Who may register, under which name, with what, and for how long.

use weft_model::Weight;

use super::*;

fn group(name: &str, account: Option<&str>) -> Arc<WorkloadGroup> {
    Arc::new(WorkloadGroup {
        origin: ObjectRef::new(Kind::WorkloadGroup, Namespace::new("shop"), name),
        labels: [("app", "cart"), ("version", "v1")].into_iter().collect(),
        ports: BTreeMap::new(),
        service_account: account.map(Arc::from),
        locality: Locality::parse("r1/z1"),
        network: "n0".into(),
        weight: Weight(7),
    })
}

fn registrar(groups: &[Arc<WorkloadGroup>]) -> Registrar {
    let groups = groups.iter().map(|g| (g.origin.clone(), Arc::clone(g)));
    Registrar {
        groups: groups.collect(),
        ..Registrar::default()
    }
}

fn comes(group: &str, address: &str) -> Said {
    Said {
        group: ObjectRef::new(Kind::WorkloadGroup, Namespace::new("shop"), group),
        address: address.parse().expect("an address"),
        labels: Labels::new(),
        network: None,
        locality: None,
        is_probed: false,
        account: Some("cart".into()),
    }
}

#[test]
fn entries_are_named_as_istiod_names_them() {
    assert_eq!(entry_name(&comes("vm", "10.0.0.1")), "vm-10.0.0.1");
    let mut said = comes("vm", "fd00::1");
    said.network = Some("net2".into());
    assert_eq!(entry_name(&said), "vm-fd00--1-net2");
    let long = entry_name(&comes(&"g".repeat(300), "10.0.0.1"));
    assert_eq!(long.len(), MAX_NAME);
    assert!(long.ends_with("-10.0.0.1"), "{long}");
}

#[test]
fn the_node_counts_before_the_group() {
    let mut registrar = registrar(&[group("vm", None)]);
    let counts = RegistrationCounts::default();
    let mut said = comes("vm", "10.0.0.1");
    said.labels = [("version", "v2"), ("istio-locality", "r2.z2")]
        .into_iter()
        .collect();
    said.locality = Some(Locality::parse("r2/z2"));
    said.network = Some("n1".into());
    let made = registrar.register(ConnectionId(1), said, &counts);
    let made = made.expect("taken").expect("made");
    let labels: Labels = [("app", "cart"), ("version", "v2")].into_iter().collect();
    assert_eq!(made.labels, labels);
    assert_eq!((&*made.network, made.weight), ("n1", Weight(7)));
    assert_eq!(made.locality, Locality::parse("r2/z2"));

    let plain = registrar.register(ConnectionId(2), comes("vm", "10.0.0.2"), &counts);
    let plain = plain.expect("taken").expect("made");
    assert_eq!(
        (&*plain.network, &plain.locality),
        ("n0", &Locality::parse("r1/z1"))
    );
    assert_eq!(plain.health, Health::Healthy);
}

#[test]
fn only_who_is_verified_and_of_the_groups_account_may() {
    let mut registrar = registrar(&[group("vm", Some("cart")), group("any", None)]);
    let counts = RegistrationCounts::default();
    let code = |registrar: &mut Registrar, said| {
        let refused = registrar.register(ConnectionId(1), said, &counts);
        refused.expect_err("refused").code()
    };
    let mut other = comes("vm", "10.0.0.1");
    other.account = Some("thief".into());
    assert_eq!(
        code(&mut registrar, other.clone()),
        tonic::Code::PermissionDenied
    );
    let mut unknown = comes("any", "10.0.0.1");
    unknown.account = None;
    assert_eq!(
        code(&mut registrar, unknown.clone()),
        tonic::Code::PermissionDenied
    );
    let absent = comes("absent", "10.0.0.1");
    assert_eq!(
        code(&mut registrar, absent),
        tonic::Code::FailedPrecondition
    );
    assert!(registrar.entries.is_empty());
    registrar.options.verified_only = false;
    registrar
        .register(ConnectionId(1), unknown, &counts)
        .expect("allowed");
    assert_eq!(code(&mut registrar, other), tonic::Code::PermissionDenied);
}

#[test]
fn entries_outlive_their_last_stream_by_the_time_of_grace() {
    let mut registrar = registrar(&[group("vm", None)]);
    let counts = RegistrationCounts::default();
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    for id in [1, 2] {
        let said = comes("vm", "10.0.0.1");
        registrar
            .register(ConnectionId(id), said, &counts)
            .expect("taken");
    }
    assert_eq!(counts.made.load(Ordering::Relaxed), 1);
    assert_eq!(counts.updates.load(Ordering::Relaxed), 1);
    assert!(
        !registrar.leave(ConnectionId(1), now),
        "another stream is there"
    );
    assert_eq!(registrar.expire(after(3600)), (0, None));
    assert!(registrar.leave(ConnectionId(2), now));
    assert_eq!(registrar.expire(after(9)), (0, Some(after(10))));

    // Back in time.
    let said = comes("vm", "10.0.0.1");
    registrar
        .register(ConnectionId(3), said, &counts)
        .expect("taken");
    assert_eq!(registrar.expire(after(3600)), (0, None));
    assert!(registrar.leave(ConnectionId(3), after(20)));
    assert!(!registrar.leave(ConnectionId(3), after(20)), "once");
    assert_eq!(registrar.expire(after(30)), (1, None));
    assert!(registrar.entries.is_empty() && registrar.of_stream.is_empty());
}

#[test]
fn there_are_no_more_entries_than_the_bound() {
    let mut registrar = registrar(&[group("vm", None)]);
    let counts = RegistrationCounts::default();
    for number in 0..MAX_ENTRIES as u32 {
        let mut said = comes("vm", "10.0.0.1");
        said.address = IpAddr::V4(number.into());
        said.account = Some(["cart", "vault"][number as usize % 2].into());
        let id = ConnectionId(number.into());
        registrar.register(id, said, &counts).expect("room");
    }
    let more = registrar.register(ConnectionId(1 << 32), comes("vm", "::1"), &counts);
    assert_eq!(
        more.expect_err("full").code(),
        tonic::Code::ResourceExhausted
    );
    let known = registrar.register(ConnectionId(1 << 33), comes("vm", "0.0.0.6"), &counts);
    known.expect("it has a place");
}

#[test]
fn an_account_has_no_more_than_its_part_of_the_entries() {
    let mut registrar = registrar(&[group("vm", None)]);
    let counts = RegistrationCounts::default();
    let mut register = |number: u32, account: &str| {
        let mut said = comes("vm", "10.0.0.1");
        said.address = IpAddr::V4(number.into());
        said.account = Some(account.into());
        registrar.register(ConnectionId(number.into()), said, &counts)
    };
    let most = MAX_OF_ACCOUNT as u32;
    for number in 0..most {
        register(number, "cart").expect("taken");
    }
    let refused = register(most, "cart").expect_err("too many");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    register(most, "vault").expect("another account");
}

#[test]
fn an_entry_stays_with_the_account_that_is_connected() {
    let mut registrar = registrar(&[group("vm", None)]);
    let counts = RegistrationCounts::default();
    let mut thief = comes("vm", "10.0.0.1");
    thief.account = Some("thief".into());
    let said = comes("vm", "10.0.0.1");
    registrar
        .register(ConnectionId(1), said, &counts)
        .expect("taken");
    let refused = registrar.register(ConnectionId(2), thief.clone(), &counts);
    let refused = refused.expect_err("it is another's");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    registrar.leave(ConnectionId(1), Instant::now());
    registrar
        .register(ConnectionId(2), thief, &counts)
        .expect("nobody is connected");

    // The group comes to ask for another account.
    let origin = registrar.of_stream[&ConnectionId(2)].clone();
    assert!(registrar.entries[&origin].told.is_some());
    let strict = group("vm", Some("cart"));
    registrar.groups.insert(strict.origin.clone(), strict);
    registrar.tell(&origin);
    assert_eq!(registrar.entries[&origin].told, None);
}
