//! One thing that was asked: the answer or why there is none, of whom, and how long ago.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One thing that was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact<T> {
    /// What came of it.
    pub known: Known<T>,
    /// Whom it was asked, and how.
    pub source: String,
    /// How long ago the answer came, in milliseconds.
    pub age_ms: u64,
}

/// An answer, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Known<T> {
    /// It is so.
    Is(T),
    /// It cannot be told.
    Unknown(String),
}

impl<T> Fact<T> {
    /// A fact of this moment.
    pub fn new(source: impl Into<String>, told: Result<T, String>) -> Fact<T> {
        let known = told.map_or_else(Known::Unknown, Known::Is);
        Fact { known, source: source.into(), age_ms: 0 }
    }

    /// The answer, if there is one.
    pub fn is(&self) -> Option<&T> {
        match &self.known {
            Known::Is(value) => Some(value),
            Known::Unknown(_) => None,
        }
    }

    /// The answer, if there is one that is not older than this.
    pub fn within(&self, age: Duration) -> Option<&T> {
        self.is().filter(|_| u128::from(self.age_ms) <= age.as_millis())
    }

    /// Why there is no answer that counts.
    pub fn why(&self) -> String {
        match &self.known {
            Known::Unknown(why) => why.clone(),
            Known::Is(_) => format!("it was asked {} s ago, which is too long", self.age_ms / 1000),
        }
    }
}
