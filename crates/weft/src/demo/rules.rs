//! The demo's configuration as people write it: Kubernetes and Istio documents as text, and the
//! folder in which the control plane watches them. Must never know how they become xDS.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::plan::Plan;
use super::service::{MARK_HEADER, SERVICE_PORT};
use crate::cli::SampleService;

/// The rules of reviews; what the walk rewrites, and what people will want to edit.
pub(crate) const REVIEWS_FILE: &str = "30-reviews.yaml";
/// The rules of ratings, with the fault.
pub(crate) const RATINGS_FILE: &str = "40-ratings.yaml";

/// Shares of reviews by version, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split(pub(crate) &'static [(&'static str, u32)]);

/// Retries of calls to reviews; more than enough to hide the demo's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retries(pub(crate) u32);

/// The services: for each a `Service`, its pods, and an `EndpointSlice` that lists them.
pub(crate) fn services(plan: &Plan) -> String {
    let mut text = String::from(
        "# The services of the demo and where their instances are, as Kubernetes describes them.\n\
         # Take an endpoint out, save, and it gets no more calls.\n",
    );
    let all = [
        SampleService::Page,
        SampleService::Details,
        SampleService::Reviews,
        SampleService::Ratings,
    ];
    for (number, service) in (1..).zip(all) {
        let number: u32 = number;
        let host = service.host();
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {host}\n  namespace: default\n\
             spec:\n  clusterIP: 10.96.90.{number}\n  selector:\n    app: {host}\n  ports:\n  - name: http\n    \
             port: {SERVICE_PORT}\n    targetPort: {SERVICE_PORT}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             name: {host}\n  namespace: default\n  labels:\n    \
             kubernetes.io/service-name: {host}\naddressType: IPv4\nports:\n- name: http\n  \
             port: {SERVICE_PORT}\n  protocol: TCP\nendpoints:\n"
        );
        for instance in plan.of(service) {
            let _ = write!(
                text,
                "- addresses: [\"{}\"]\n  conditions:\n    ready: true\n  targetRef:\n    \
                 kind: Pod\n    name: {}\n    namespace: default\n",
                instance.address,
                instance.name()
            );
        }
        for instance in plan.of(service) {
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: default\n  \
                 labels:\n    app: {host}\n    version: {}\nspec:\n  containers:\n  - name: app\n    \
                 image: built-in\nstatus:\n  phase: Running\n  podIP: {}\n",
                instance.name(),
                instance.version,
                instance.address
            );
        }
    }
    text
}

/// The way in: a Gateway and the route to the page.
pub(crate) fn gateway(plan: &Plan) -> String {
    format!(
        "# The way into the mesh.\n\
         apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata:\n  name: way-in\n  \
         namespace: default\nspec:\n  selector:\n    istio: ingressgateway\n  servers:\n  - port:\n      \
         number: {port}\n      name: http\n      protocol: HTTP\n    bind: {bind}\n    hosts: [\"*\"]\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: way-in\n  \
         namespace: default\nspec:\n  hosts: [\"*\"]\n  gateways: [way-in]\n  http:\n  - match:\n    \
         - uri:\n        exact: /\n    - uri:\n        prefix: /productpage\n    route:\n    \
         - destination:\n        host: page\n        port:\n          number: {SERVICE_PORT}\n",
        port = plan.gateway.port(),
        bind = plan.gateway.ip(),
    )
}

/// The rules of reviews: its subsets, the split, retries. `mark` returns with every answer.
pub(crate) fn reviews(split: Split, retries: Option<Retries>, mark: &str) -> String {
    let mut text = format!(
        "# Who gets the calls to reviews. Change a weight, save, and watch the split move.\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: reviews\n  \
         namespace: default\nspec:\n  hosts: [reviews]\n  http:\n  - headers:\n      response:\n        \
         set:\n          {MARK_HEADER}: \"{mark}\"  # the walk's own mark, free to change\n    route:\n"
    );
    for (version, weight) in split.0 {
        let _ = write!(
            text,
            "    - destination:\n        host: reviews\n        subset: {version}\n      \
             weight: {weight}\n"
        );
    }
    if let Some(Retries(attempts)) = retries {
        let _ = write!(
            text,
            "    retries:\n      attempts: {attempts}\n      perTryTimeout: 5s\n      \
             retryOn: 5xx\n"
        );
    }
    text.push_str(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  \
         name: reviews\n  namespace: default\nspec:\n  host: reviews\n  subsets:\n",
    );
    for version in ["v1", "v2", "v3"] {
        let _ = write!(
            text,
            "  - name: {version}\n    labels:\n      version: {version}\n"
        );
    }
    text
}

/// The rules of ratings; `fault_percent` of the calls fail with 500 before they leave.
pub(crate) fn ratings(fault_percent: Option<u32>) -> String {
    let mut text = String::from(
        "# Reviews v2 and v3 ask ratings. With a fault here, part of those calls fail.\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: ratings\n  \
         namespace: default\nspec:\n  hosts: [ratings]\n  http:\n  - route:\n    - destination:\n        \
         host: ratings\n",
    );
    match fault_percent {
        Some(percent) => {
            let _ = write!(
                text,
                "    fault:\n      abort:\n        httpStatus: 500\n        percentage:\n          \
                 value: {percent}\n"
            );
        }
        None => text.push_str(
            "    # fault:\n    #   abort:\n    #     httpStatus: 500\n    #     percentage:\n    \
             #       value: 20\n",
        ),
    }
    text
}

/// The watched folder. Files change as a whole: written beside it, then moved into it.
#[derive(Debug)]
pub(crate) struct RulesFolder {
    watched: PathBuf,
    staging: PathBuf,
    written: std::cell::RefCell<std::collections::BTreeMap<&'static str, String>>,
}

impl RulesFolder {
    /// Makes the folder in `root`, with the services and the way in.
    ///
    /// # Errors
    /// The file system refuses; the text names the path.
    pub(crate) fn create(root: &Path, plan: &Plan) -> Result<Self, String> {
        let folder = Self {
            watched: root.join("mesh"),
            staging: root.join("staging"),
            written: std::cell::RefCell::default(),
        };
        for path in [&folder.watched, &folder.staging] {
            std::fs::create_dir_all(path)
                .map_err(|error| format!("making {}: {error}", path.display()))?;
        }
        folder.write("10-services.yaml", services(plan))?;
        folder.write("20-gateway.yaml", gateway(plan))?;
        Ok(folder)
    }

    /// The folder that the control plane watches.
    pub(crate) fn watched(&self) -> &Path {
        &self.watched
    }

    /// Replaces a file.
    ///
    /// # Errors
    /// The file system refuses; the text names the path.
    pub(crate) fn write(&self, name: &'static str, text: String) -> Result<(), String> {
        let (staged, path) = (self.staging.join(name), self.watched.join(name));
        std::fs::write(&staged, &text)
            .and_then(|()| std::fs::rename(&staged, &path))
            .map_err(|error| format!("writing {}: {error}", path.display()))?;
        self.written.borrow_mut().insert(name, text);
        Ok(())
    }

    /// A file that somebody else has changed since it was written here, and what it says now
    /// (nothing if it is gone).
    pub(crate) fn edited_by_hand(&self) -> Option<(&'static str, String)> {
        self.written.borrow().iter().find_map(|(name, text)| {
            let now = std::fs::read_to_string(self.watched.join(name)).unwrap_or_default();
            (now != *text).then_some((*name, now))
        })
    }
}
