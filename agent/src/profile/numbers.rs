//! Small numbers for values, in the order in which they come.

use std::{collections::HashMap, hash::Hash};

/// Gives each distinct value a number, from 0 on.
#[derive(Debug)]
pub(super) struct Numbers<T> {
    known: HashMap<T, u32>,
    list: Vec<T>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            list: Vec::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    /// The number of a value. There are never as many as would not fit: callers bound them.
    pub(super) fn of(&mut self, value: &T) -> u32 {
        if let Some(&number) = self.known.get(value) {
            return number;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(value.clone());
        self.known.insert(value.clone(), number);
        number
    }

    /// The values by their numbers.
    pub(super) fn list(&self) -> &[T] {
        &self.list
    }

    /// The values by their numbers.
    pub(super) fn into_list(self) -> Vec<T> {
        self.list
    }
}
