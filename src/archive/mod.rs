//! The life of a WAL segment: pushed, fetched, relayed, expired.
