//! Bytes that are kept in the pieces in which they came. A client chooses how small those are, and each
//! costs more than its bytes: many small ones are copied together.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Pieces of this size on are kept as they are.
const LARGE: usize = 1024;
/// So are the first of them: most bodies are short and come at once.
const FEW: usize = 8;
/// Small ones are copied together up to this size.
const GATHERED: usize = 16 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    closed: VecDeque<Bytes>,
    /// What comes after these, of small pieces.
    open: BytesMut,
}

impl Pieces {
    /// Adds what comes next.
    pub(super) fn push(&mut self, data: &Bytes) {
        if data.len() >= LARGE || (self.closed.len() < FEW && self.open.is_empty()) {
            self.close();
            self.closed.push_back(data.clone());
            return;
        }
        self.open.extend_from_slice(data);
        if self.open.len() >= GATHERED {
            self.close();
        }
    }

    /// From now on everything that was added can be got.
    pub(super) fn close(&mut self) {
        if !self.open.is_empty() {
            self.closed
                .push_back(std::mem::take(&mut self.open).freeze());
        }
    }

    /// A piece by its number, of those that are closed.
    pub(super) fn get(&self, number: usize) -> Option<&Bytes> {
        self.closed.get(number)
    }

    /// The closed pieces from this one on.
    pub(super) fn rest(&self, number: usize) -> impl Iterator<Item = &Bytes> {
        self.closed.iter().skip(number)
    }

    /// How many pieces are closed.
    pub(super) fn len(&self) -> usize {
        self.closed.len()
    }

    /// Takes the first piece.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.closed.is_empty() {
            self.close();
        }
        self.closed.pop_front()
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(sizes: impl IntoIterator<Item = usize>) -> (Pieces, Vec<u8>) {
        let (mut pieces, mut all) = (Pieces::default(), Vec::new());
        for (number, size) in sizes.into_iter().enumerate() {
            let data = vec![number as u8; size];
            pieces.push(&Bytes::from(data.clone()));
            all.extend(data);
        }
        (pieces, all)
    }

    #[test]
    fn a_million_single_bytes_are_few_pieces() {
        let (mut pieces, all) = pushed(std::iter::repeat_n(1, 1 << 20));
        pieces.close();
        assert!(
            pieces.len() <= FEW + (1 << 20) / GATHERED + 1,
            "{}",
            pieces.len()
        );
        assert_eq!(pieces.rest(0).flatten().copied().collect::<Vec<_>>(), all);
    }

    #[test]
    fn whatever_the_sizes_are_the_bytes_come_in_order() {
        let sizes = (0..200).map(|number| [0, 1, 7, 1023, 1024, 5000][number * 7 % 6]);
        let (mut pieces, all) = pushed(sizes);
        let mut read = Vec::new();
        while let Some(piece) = pieces.pop() {
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, all);
        assert!(pieces.is_empty());
    }

    #[test]
    fn large_pieces_are_not_copied() {
        let data = Bytes::from(vec![1; LARGE]);
        let (mut pieces, _) = pushed([1; 20]);
        pieces.push(&data);
        let last = pieces.len() - 1;
        assert_eq!(pieces.get(last).expect("the last").as_ptr(), data.as_ptr());
    }
}
