//! Tables of text: each column as wide as its widest cell, the last one ragged.

use std::fmt;

/// Rows of cells.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
    gap: usize,
}

impl Table {
    /// A table with this header and so many blanks between columns.
    pub fn new<'a>(header: impl IntoIterator<Item = &'a str>, gap: usize) -> Self {
        let header = header.into_iter().map(str::to_owned).collect();
        Self {
            rows: vec![header],
            gap,
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Rows besides the header.
    pub fn len(&self) -> usize {
        self.rows.len() - 1
    }

    /// Whether there is only the header.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let width = cell.chars().count() + self.gap;
                match widths.get_mut(column) {
                    Some(widest) => *widest = width.max(*widest),
                    None => widths.push(width),
                }
            }
        }
        for row in &self.rows {
            let mut cells = row.iter().zip(&widths).peekable();
            while let Some((cell, width)) = cells.next() {
                if cells.peek().is_some() {
                    write!(f, "{cell:<width$}")?;
                } else {
                    f.write_str(cell)?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(["A", "LONG", "C"], 2);
        table.row(["wide".to_owned(), "é".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "A     LONG  C\nwide  é     x\n");
        assert_eq!(table.len(), 1);
    }
}
