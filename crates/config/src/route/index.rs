//! Finds the routes of a virtual host whose path rule holds, in their order, without looking at
//! the others: exact rules by hash, prefixes by radix trie, expressions together.
//! Looks at paths only; conditions are the caller's.

use ahash::AHashMap;
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::Route;
use super::matcher::PathRule;
use std::sync::Arc;

/// Up to so many expressions are tried one after the other.
const FEW_EXPRESSIONS: usize = 4;

/// Index over the path rules of a list of routes.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    plain: Rules,
    /// Rules that ignore case, in lower case.
    folded: Rules,
    /// Routes with expressions, in order.
    expressions: Vec<u32>,
    /// All of them together, if there are many.
    expression_set: Option<RegexSet>,
}

#[derive(Debug, Default)]
struct Rules {
    exact: AHashMap<Box<[u8]>, Vec<u32>>,
    prefixes: Trie,
}

impl PathIndex {
    pub(super) fn new(routes: &[Arc<Route>]) -> Self {
        let mut index = Self::default();
        for (number, route) in routes.iter().enumerate() {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            index.add(number, &route.matcher.path, route.matcher.case_sensitive);
        }
        index.compile_expressions(routes);
        index
    }

    fn add(&mut self, number: u32, rule: &PathRule, case_sensitive: bool) {
        let rules = if case_sensitive {
            &mut self.plain
        } else {
            &mut self.folded
        };
        let key = |text: &str| {
            if case_sensitive {
                text.as_bytes().to_vec()
            } else {
                text.to_ascii_lowercase().into_bytes()
            }
        };
        match rule {
            PathRule::Exact(path) => {
                rules
                    .exact
                    .entry(key(path).into_boxed_slice())
                    .or_default()
                    .push(number);
            }
            PathRule::Prefix(prefix) => rules.prefixes.insert(&key(prefix), number, false),
            PathRule::SeparatedPrefix(prefix) => rules.prefixes.insert(&key(prefix), number, true),
            PathRule::Regex(_) => self.expressions.push(number),
        }
    }

    fn compile_expressions(&mut self, routes: &[Arc<Route>]) {
        if self.expressions.len() <= FEW_EXPRESSIONS {
            return;
        }
        let patterns: Option<Vec<String>> = self
            .expressions
            .iter()
            .map(|number| match &routes.get(*number as usize)?.matcher.path {
                PathRule::Regex(regex) => regex.anchored_pattern(),
                _ => None,
            })
            .collect();
        // Without a set (modes are mixed, or it would be too large) they are tried one by one.
        self.expression_set = patterns.and_then(|patterns| {
            RegexSetBuilder::new(patterns)
                .unicode(false)
                .size_limit(16 << 20)
                .build()
                .ok()
        });
    }

    /// The first route, in order, whose path rule holds and for which `accept` says yes.
    pub(super) fn first<'r>(
        &self,
        routes: &'r [Arc<Route>],
        path: &str,
        mut accept: impl FnMut(&Route) -> bool,
    ) -> Option<&'r Arc<Route>> {
        let mut lists = Candidates::default();
        self.plain.collect(path.as_bytes(), &mut lists);
        if !self.folded.is_empty() {
            self.folded
                .collect(path.to_ascii_lowercase().as_bytes(), &mut lists);
        }
        let matched_set: Option<Vec<u32>> = self.expression_set.as_ref().map(|set| {
            let hits = set.matches(path.as_bytes());
            hits.iter()
                .filter_map(|hit| self.expressions.get(hit).copied())
                .collect()
        });
        let (expressions, proven) = match &matched_set {
            Some(hits) => (hits.as_slice(), true),
            None => (self.expressions.as_slice(), false),
        };
        let mut expressions = expressions.iter().copied().peekable();
        loop {
            let listed = lists.peek();
            let number = match (listed, expressions.peek()) {
                (None, None) => return None,
                (Some(listed), Some(next)) if listed < *next => lists.take(listed),
                (Some(listed), None) => lists.take(listed),
                (_, Some(_)) => {
                    let Some(number) = expressions.next() else {
                        continue;
                    };
                    let holds = proven
                        || routes
                            .get(number as usize)
                            .is_some_and(|route| route.matcher.path_matches(path));
                    if !holds {
                        continue;
                    }
                    number
                }
            };
            if let Some(route) = routes.get(number as usize).filter(|route| accept(route)) {
                return Some(route);
            }
        }
    }
}

impl Rules {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    fn collect<'i>(&'i self, path: &[u8], lists: &mut Candidates<'i>) {
        if !self.exact.is_empty()
            && let Some(numbers) = self.exact.get(path)
        {
            lists.push(numbers);
        }
        self.prefixes.collect(path, lists);
    }
}

/// Ascending lists of route numbers, merged lazily. Few: one for each matching prefix.
#[derive(Default)]
struct Candidates<'i> {
    inline: [&'i [u32]; 8],
    used: usize,
    more: Vec<&'i [u32]>,
}

impl<'i> Candidates<'i> {
    fn push(&mut self, list: &'i [u32]) {
        if list.is_empty() {
            return;
        }
        match self.inline.get_mut(self.used) {
            Some(slot) => {
                *slot = list;
                self.used += 1;
            }
            None => self.more.push(list),
        }
    }

    fn lists(&mut self) -> impl Iterator<Item = &mut &'i [u32]> {
        self.inline.iter_mut().chain(self.more.iter_mut())
    }

    fn peek(&self) -> Option<u32> {
        self.inline
            .iter()
            .chain(&self.more)
            .filter_map(|list| list.first().copied())
            .min()
    }

    /// Takes `number`, the head of one list.
    fn take(&mut self, number: u32) -> u32 {
        for list in self.lists() {
            if let Some((first, rest)) = list.split_first()
                && *first == number
            {
                *list = rest;
                break;
            }
        }
        number
    }
}

/// A radix trie over bytes.
#[derive(Debug)]
struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Bytes on the way from the parent; empty only at the root.
    label: Box<[u8]>,
    /// First byte of a child's label and its place, sorted by byte.
    children: Vec<(u8, u32)>,
    prefixes: Vec<u32>,
    separated: Vec<u32>,
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl Trie {
    fn is_empty(&self) -> bool {
        self.nodes.len() == 1
            && self
                .nodes
                .first()
                .is_none_or(|n| n.prefixes.is_empty() && n.separated.is_empty())
    }

    fn node(&mut self, at: u32) -> &mut Node {
        // `at` comes from `children` or is the root: nodes are only ever added.
        &mut self.nodes[at as usize]
    }

    fn add_node(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }

    fn insert(&mut self, key: &[u8], number: u32, separated: bool) {
        let mut at = 0;
        let mut rest = key;
        while let Some(&byte) = rest.first() {
            match self
                .node(at)
                .children
                .binary_search_by_key(&byte, |child| child.0)
            {
                Err(place) => {
                    let leaf = self.add_node(Node {
                        label: rest.into(),
                        ..Node::default()
                    });
                    self.node(at).children.insert(place, (byte, leaf));
                    at = leaf;
                    rest = &[];
                }
                Ok(place) => {
                    let child = self.node(at).children[place].1;
                    let shared = shared_len(&self.node(child).label, rest);
                    at = if shared == self.node(child).label.len() {
                        child
                    } else {
                        self.split(at, place, child, shared)
                    };
                    rest = rest.get(shared..).unwrap_or_default();
                }
            }
        }
        let node = self.node(at);
        if separated {
            node.separated.push(number);
        } else {
            node.prefixes.push(number);
        }
    }

    /// Puts a node between a parent and its child, after `shared` bytes of the child's label.
    fn split(&mut self, parent: u32, place: usize, child: u32, shared: usize) -> u32 {
        let label = std::mem::take(&mut self.node(child).label);
        // `shared` is less than the label's length and more than 0: the first bytes are equal.
        let (head, tail) = label.split_at(shared);
        let first_of_tail = tail[0];
        self.node(child).label = tail.into();
        let middle = self.add_node(Node {
            label: head.into(),
            children: vec![(first_of_tail, child)],
            ..Node::default()
        });
        self.node(parent).children[place].1 = middle;
        middle
    }

    /// Collects the lists of all prefixes of `path`.
    fn collect<'i>(&'i self, path: &[u8], lists: &mut Candidates<'i>) {
        let mut node = match self.nodes.first() {
            Some(root) => root,
            None => return,
        };
        let mut rest = path;
        loop {
            lists.push(&node.prefixes);
            if matches!(rest.first(), None | Some(b'/')) {
                lists.push(&node.separated);
            }
            let Some(byte) = rest.first() else { return };
            let Ok(place) = node.children.binary_search_by_key(byte, |child| child.0) else {
                return;
            };
            let Some(child) = node
                .children
                .get(place)
                .and_then(|(_, at)| self.nodes.get(*at as usize))
            else {
                return;
            };
            let Some(after) = rest.strip_prefix(&*child.label) else {
                return;
            };
            node = child;
            rest = after;
        }
    }
}

fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
