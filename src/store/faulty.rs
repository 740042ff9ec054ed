//! A place whose n-th call fails, for tests: before it took effect, or after, with only the answer lost.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Entry, Payload, Place, Published, Space, Store, StoreError, StorePath};

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Nothing was done.
    Before,
    /// All was done, and the answer is lost.
    After,
}

/// The call that fails, counted from 0, reads of an open file included; later ones go well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which call.
    pub call: u64,
    /// When in it.
    pub when: When,
}

/// Wraps any place.
pub struct Faulty {
    inner: Arc<dyn Store>,
    fault: Option<Fault>,
    calls: Arc<AtomicU64>,
}

impl Faulty {
    /// Wraps a place; without a fault it only counts.
    pub fn new(inner: Arc<dyn Store>, fault: Option<Fault>) -> Self {
        Faulty { inner, fault, calls: Arc::default() }
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// True once the fault has struck.
    pub fn struck(&self) -> bool {
        self.fault.is_some_and(|fault| self.calls() > fault.call)
    }

    fn call<T>(&self, act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Some(fault) if fault.call == number => {
                if fault.when == When::After {
                    // What the call answered is what gets lost.
                    let _ = act();
                }
                let reason = format!("call {number} was made to fail");
                Err(StoreError::Unreachable { place: self.place().clone(), reason, hint: None })
            }
            _ => act(),
        }
    }
}

impl Store for Faulty {
    fn place(&self) -> &Place {
        self.inner.place()
    }

    fn look(&self, path: &StorePath) -> Result<Option<Entry>, StoreError> {
        self.call(|| self.inner.look(path))
    }

    fn list(&self, folder: &StorePath) -> Result<Option<Vec<Entry>>, StoreError> {
        self.call(|| self.inner.list(folder))
    }

    fn open(&self, path: &StorePath) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let inner = self.call(|| self.inner.open(path))?;
        let (calls, fault) = (Arc::clone(&self.calls), self.fault);
        Ok(inner.map(|inner| Box::new(FaultyRead { inner, fault, calls }) as Box<dyn Read + Send>))
    }

    fn publish(&self, path: &StorePath, payload: &Payload, rivals: &[StorePath]) -> Result<Published, StoreError> {
        self.call(|| self.inner.publish(path, payload, rivals))
    }

    fn settle(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.call(|| self.inner.settle(path))
    }

    fn replace(&self, path: &StorePath, content: &[u8]) -> Result<(), StoreError> {
        self.call(|| self.inner.replace(path, content))
    }

    fn remove(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.call(|| self.inner.remove(path))
    }

    fn space(&self) -> Result<Space, StoreError> {
        self.call(|| self.inner.space())
    }
}

/// A file whose reads count as calls.
struct FaultyRead {
    inner: Box<dyn Read + Send>,
    fault: Option<Fault>,
    calls: Arc<AtomicU64>,
}

impl Read for FaultyRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.fault.is_some_and(|fault| fault.call == number) {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "this read was made to fail"));
        }
        self.inner.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use crate::store::memory::MemoryStore;

    #[test]
    fn without_a_fault_it_passes_the_suite() {
        conformance::suite(&mut || Box::new(Faulty::new(Arc::new(MemoryStore::new()), None)));
    }

    #[test]
    fn a_lost_answer_leaves_the_effect_and_an_early_fault_leaves_none() -> Result<(), StoreError> {
        for (when, there) in [(When::Before, false), (When::After, true)] {
            let memory = Arc::new(MemoryStore::new());
            let faulty = Faulty::new(Arc::clone(&memory) as Arc<dyn Store>, Some(Fault { call: 0, when }));
            assert!(faulty.replace(&"record".parse()?, b"x").is_err());
            assert_eq!(memory.look(&"record".parse()?)?.is_some(), there);
            assert!(faulty.struck());
        }
        Ok(())
    }
}
