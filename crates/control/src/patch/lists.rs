//! Where a patch puts its value in a list. Must never know what the items are.

use weft_model::PatchOperation;

/// Puts `make()` into the list as the operation says; true if that changed it. `named`: whether the
/// patch names an item, and `is` whether an item is that one. What names none stands at an end.
pub(super) fn place<T>(
    list: &mut Vec<T>,
    operation: PatchOperation,
    named: bool,
    is: impl Fn(&T) -> bool,
    make: impl Fn() -> Result<T, String>,
) -> Result<bool, String> {
    use PatchOperation as Op;
    let found = list.iter().position(is);
    let index = match (operation, named, found) {
        (Op::Add, ..) | (Op::InsertAfter, false, _) => list.len(),
        (Op::InsertFirst, ..) | (Op::InsertBefore, false, _) => 0,
        (Op::InsertBefore, true, Some(index)) => index,
        (Op::InsertAfter, true, Some(index)) => index + 1,
        (Op::Replace, true, Some(index)) => {
            list.splice(index..=index, [make()?]);
            return Ok(true);
        }
        _ => return Ok(false),
    };
    list.insert(index, make()?);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(operation: PatchOperation, named: bool, name: char) -> String {
        let mut list: Vec<char> = "abca".chars().collect();
        place(&mut list, operation, named, |c| *c == name, || Ok('x')).expect("made");
        list.into_iter().collect()
    }

    #[test]
    fn the_first_item_that_is_named_counts() {
        use PatchOperation as Op;
        for (operation, named, name, result) in [
            (Op::Add, true, 'a', "abcax"),
            (Op::InsertFirst, true, 'z', "xabca"),
            (Op::InsertBefore, true, 'a', "xabca"),
            (Op::InsertBefore, true, 'c', "abxca"),
            (Op::InsertBefore, true, 'z', "abca"),
            (Op::InsertBefore, false, 'c', "xabca"),
            (Op::InsertAfter, true, 'a', "axbca"),
            (Op::InsertAfter, true, 'z', "abca"),
            (Op::InsertAfter, false, 'a', "abcax"),
            (Op::Replace, true, 'a', "xbca"),
            (Op::Replace, true, 'z', "abca"),
            (Op::Replace, false, 'a', "abca"),
            (Op::Merge, true, 'a', "abca"),
        ] {
            assert_eq!(
                placed(operation, named, name),
                result,
                "{operation:?} {name}"
            );
        }
    }
}
