//! One piece of work for each of many things, on all processors.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many things one thread takes in a row.
const RUN: usize = 64;

/// What `work` makes of each item, in their order.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let counter = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let begin = counter.fetch_add(RUN, Ordering::Relaxed);
            if begin >= items.len() {
                return done;
            }
            let end = (begin + RUN).min(items.len());
            done.push((begin, items[begin..end].iter().map(&work).collect()));
        }
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(items.len().div_ceil(RUN).max(1));
    let mut runs: Vec<(usize, Vec<R>)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
        let mut runs = worker();
        for other in others {
            runs.extend(other.join().expect("it does not panic"));
        }
        runs
    });
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
}
