//! Whole resources: what is accepted, what is refused and where, and that no bytes make it panic.

mod agent;
mod istio;
mod mutation;
mod refusals;
mod spiffe;
