//! Where one document of a stream ends and the next begins, decided before anything is
//! parsed: YAML reserves `---` at the start of a line for that, even inside of block scalars.

/// A part of a text that holds a document (more only if `...` ends one of them).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    pub(super) text: &'a str,
    /// Lines of the file before this part.
    pub(super) lines_before: u32,
}

/// Splits at every `---`. Parts with nothing but directives and comments are left out, for
/// these belong to the document after them and carry nothing that we use.
pub(super) fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let mut offset = 0;
    for (line_number, line) in (0..).zip(text.split_inclusive('\n')) {
        if is_document_start(line) && offset > start {
            push(&mut chunks, text.get(start..offset), lines_before);
            (start, lines_before) = (offset, line_number);
        }
        offset += line.len();
    }
    push(&mut chunks, text.get(start..), lines_before);
    chunks
}

fn push<'a>(chunks: &mut Vec<Chunk<'a>>, text: Option<&'a str>, lines_before: u32) {
    let Some(text) = text else { return };
    let idle = |line: &str| {
        let bare = line.trim();
        bare.is_empty() || bare.starts_with('#') || line.starts_with('%')
    };
    if !text.lines().all(idle) {
        chunks.push(Chunk { text, lines_before });
    }
}

fn is_document_start(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_keeps_its_lines() {
        let text = "# first\na: 1\n---\nb: |\n  ---\n---x: 1\n--- # third\nc: 1\n---\n";
        let found: Vec<(u32, &str)> = chunks(text)
            .iter()
            .map(|chunk| (chunk.lines_before, chunk.text))
            .collect();
        assert_eq!(
            found,
            [
                (0, "# first\na: 1\n"),
                (2, "---\nb: |\n  ---\n---x: 1\n"),
                (6, "--- # third\nc: 1\n"),
                (8, "---\n"),
            ]
        );
    }

    #[test]
    fn directives_and_comments_alone_are_no_document() {
        assert_eq!(chunks("%YAML 1.2\n# hello\n---\na: 1").len(), 1);
        assert!(chunks("# nothing\n\n").is_empty());
        assert!(chunks("").is_empty());
    }
}
