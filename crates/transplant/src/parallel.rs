//! Work on all processors, or on as many threads as the system gives: where it gives none, the work
//! is done all the same.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

/// How many things one thread takes in a row.
const RUN: usize = 64;

/// Calls `worker` on this thread and on others, on no more than `most` of them all in all. It takes
/// its share of the work by itself, until there is none left.
pub(crate) fn share(most: usize, worker: impl Fn() + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(most) {
            // Limits of processes count threads as well.
            if Builder::new().spawn_scoped(scope, &worker).is_err() {
                break;
            }
        }
        worker();
    });
}

/// Two things at once.
pub(crate) fn both<A: Send, B>(one: impl Fn() -> A + Sync, other: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let thread = Builder::new().spawn_scoped(scope, &one);
        let done = other();
        let first = match thread {
            Ok(thread) => thread.join().expect("it does not panic"),
            Err(_) => one(),
        };
        (first, done)
    })
}

/// What `work` makes of each item, in their order.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let counter = AtomicUsize::new(0);
    let runs: Mutex<Vec<(usize, Vec<R>)>> = Mutex::new(Vec::new());
    share(items.len().div_ceil(RUN), || {
        let mut done = Vec::new();
        loop {
            let begin = counter.fetch_add(RUN, Ordering::Relaxed);
            if begin >= items.len() {
                break;
            }
            let end = (begin + RUN).min(items.len());
            done.push((begin, items[begin..end].iter().map(&work).collect()));
        }
        runs.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(done);
    });
    let mut runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
    runs.sort_unstable_by_key(|(begin, _)| *begin);
    runs.into_iter().flat_map(|(_, run)| run).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_order_stays() {
        let numbers: Vec<usize> = (0..1000).collect();
        let doubled: Vec<usize> = numbers.iter().map(|number| number * 2).collect();
        assert_eq!(super::map(&numbers, |number| number * 2), doubled);
        assert!(super::map(&numbers[..0], |number| number * 2).is_empty());
    }

    #[test]
    fn two_things_come_back() {
        assert_eq!(super::both(|| 1, || "x"), (1, "x"));
    }
}
