//! Edits of the mesh, and the view that follows from it.

use weft_xds::{Mode, Protocol, Resource, ResourceSet, View};

use super::{Blur, Body, TYPES, World};

impl<P: Protocol> World<P>
where
    P::Request: Blur,
{
    /// A change of the mesh that is consistent in itself: routes refer to clusters that exist.
    pub(super) fn edit(&mut self) {
        let bad = self.settings.bad;
        for _ in 0..=self.random.below(4) {
            let kind = self.random.below(5);
            let names = if kind < 2 { 8 } else { 4 };
            let name = format!("n{}", self.random.below(names));
            let content = self.random.below(3) as u64;
            let body = Body {
                name: name.clone(),
                content,
                refers: if kind == 2 {
                    format!("n{}", self.random.below(4))
                } else {
                    String::new()
                },
                bad: bad && self.random.chance(15),
            };
            match kind {
                // A cluster and its endpoints come and go together, or change alone.
                // State of the world cannot say that a route is gone while a listener refers to it.
                0 | 1 if self.random.chance(30) && (P::MODE == Mode::Delta || name != "n0") => {
                    self.model.remove(&(0, name.clone()));
                    self.model.remove(&(1, name));
                }
                0 | 1 => {
                    for other in [1 - kind, kind] {
                        let place = (other, name.clone());
                        if other == kind || !self.model.contains_key(&place) {
                            self.model.insert(place, body.clone());
                        }
                    }
                }
                _ if self.random.chance(25) && (P::MODE == Mode::Delta || kind != 3) => {
                    self.model.remove(&(kind, name));
                }
                _ => {
                    self.model.insert((kind, name), body);
                }
            }
        }
        if P::MODE == Mode::Sotw {
            for kind in [0, 1] {
                let n0 = Body {
                    name: "n0".to_owned(),
                    ..Body::default()
                };
                self.model.entry((kind, "n0".to_owned())).or_insert(n0);
            }
        }
        self.point_routes();
        self.publish();
    }

    /// Every route refers to a cluster that exists; with no cluster there is no route.
    pub(super) fn point_routes(&mut self) {
        let clusters: Vec<String> = self
            .model
            .keys()
            .filter(|(kind, _)| *kind == 0)
            .map(|(_, name)| name.clone())
            .collect();
        if clusters.is_empty() {
            assert_eq!(P::MODE, Mode::Delta, "n0 always exists");
            self.model.retain(|(kind, _), _| *kind != 3);
            return;
        }
        for ((kind, _), body) in &mut self.model {
            if *kind == 3 && (!clusters.contains(&body.refers) || self.random.chance(10)) {
                body.refers
                    .clone_from(&clusters[self.random.below(clusters.len())]);
            }
        }
    }

    pub(super) fn publish(&mut self) {
        let sets =
            TYPES.iter().enumerate().map(|(kind, type_url)| {
                let resources = self.model.iter().filter(|((of, _), _)| *of == kind).map(
                    |((_, name), body)| {
                        Resource::encode(type_url, name.as_str(), body)
                            .with_links(Some(body.refers.as_str().into()).filter(|_| kind == 2))
                    },
                );
                ResourceSet::new(type_url.clone(), resources)
            });
        self.view = View::new(sets);
        if let Some(server) = &mut self.server {
            server.set_view(self.view.clone());
        }
    }
}
