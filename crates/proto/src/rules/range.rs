//! The rules of a number, and of a duration counted in nanoseconds.

/// Bounds of a number. Bounds that cross each other mean "outside of".
#[derive(Debug, Default)]
pub(super) struct Range<T> {
    pub(super) constant: Option<T>,
    pub(super) lt: Option<T>,
    pub(super) lte: Option<T>,
    pub(super) gt: Option<T>,
    pub(super) gte: Option<T>,
    pub(super) one_of: Vec<T>,
    pub(super) none_of: Vec<T>,
    pub(super) ignore_empty: bool,
}

impl<T: PartialOrd + Copy + Default> Range<T> {
    /// What is wrong with a value, if anything is.
    pub(super) fn broken(&self, value: T, show: impl Fn(T) -> String) -> Option<String> {
        if self.ignore_empty && value == T::default() {
            return None;
        }
        if let Some(constant) = self.constant
            && value != constant
        {
            return Some(format!("value must equal {}", show(constant)));
        }
        if !self.one_of.is_empty() && !self.one_of.contains(&value) {
            return Some(format!(
                "value must be in list [{}]",
                list(&self.one_of, &show)
            ));
        }
        if self.none_of.contains(&value) {
            return Some(format!(
                "value must not be in list [{}]",
                list(&self.none_of, &show)
            ));
        }
        let low = self
            .gt
            .map(|gt| (gt, value > gt))
            .or(self.gte.map(|gte| (gte, value >= gte)));
        let high = self
            .lt
            .map(|lt| (lt, value < lt))
            .or(self.lte.map(|lte| (lte, value <= lte)));
        match (low, high) {
            (Some((low, above)), Some((high, below))) => {
                let (opens, closes) = (
                    if self.gt.is_some() { '(' } else { '[' },
                    if self.lt.is_some() { ')' } else { ']' },
                );
                let (low_text, high_text) = (show(low), show(high));
                if low > high {
                    (!above && !below).then(|| {
                        format!(
                            "value must be outside range {opens}{high_text}, {low_text}{closes}"
                        )
                    })
                } else {
                    (!above || !below).then(|| {
                        format!("value must be inside range {opens}{low_text}, {high_text}{closes}")
                    })
                }
            }
            (Some((low, false)), None) => {
                let or_equal = if self.gt.is_some() {
                    ""
                } else {
                    "or equal to "
                };
                Some(format!(
                    "value must be greater than {or_equal}{}",
                    show(low)
                ))
            }
            (None, Some((high, false))) => {
                let or_equal = if self.lt.is_some() {
                    ""
                } else {
                    "or equal to "
                };
                Some(format!("value must be less than {or_equal}{}", show(high)))
            }
            _ => None,
        }
    }
}

/// Values as they stand in a message.
pub(super) fn list<T: Copy>(values: &[T], show: impl Fn(T) -> String) -> String {
    values
        .iter()
        .map(|value| show(*value))
        .collect::<Vec<_>>()
        .join(", ")
}
