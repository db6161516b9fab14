//! The shape of a plan: circles, leaves, and an order in which everything comes after what it needs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The nodes of one circle in the order in which they need each other, the first repeated at the end; None
/// when there is no circle. `needs[n]` are the nodes that node `n` needs.
pub(crate) fn find_cycle(needs: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Done,
    }
    let mut marks = vec![Mark::New; needs.len()];
    for start in 0..needs.len() {
        if marks[start] != Mark::New {
            continue;
        }
        // A path of (node, how many of its needs were looked at); a chain of 10,000 must not recurse.
        let mut path = vec![(start, 0)];
        marks[start] = Mark::OnPath;
        while let Some((node, looked_at)) = path.last_mut() {
            let Some(&next) = needs[*node].get(*looked_at) else {
                marks[*node] = Mark::Done;
                path.pop();
                continue;
            };
            *looked_at += 1;
            match marks[next] {
                Mark::New => {
                    marks[next] = Mark::OnPath;
                    path.push((next, 0));
                }
                Mark::OnPath => {
                    let begin = path.iter().position(|(node, _)| *node == next).unwrap_or(0);
                    let mut cycle: Vec<_> = path[begin..].iter().map(|(node, _)| *node).collect();
                    cycle.push(next);
                    return Some(cycle);
                }
                Mark::Done => {}
            }
        }
    }
    None
}

/// The nodes that no other node needs.
pub(crate) fn leaves(needs: &[Vec<usize>]) -> Vec<usize> {
    let mut needed = vec![false; needs.len()];
    for &need in needs.iter().flatten() {
        needed[need] = true;
    }
    (0..needs.len()).filter(|&node| !needed[node]).collect()
}

/// Every node after all that it needs, otherwise in the order of the file. The graph has no circle.
pub(crate) fn topological(needs: &[Vec<usize>]) -> Vec<usize> {
    let mut dependents = vec![Vec::new(); needs.len()];
    let mut open: Vec<usize> = needs.iter().map(Vec::len).collect();
    for (node, needs) in needs.iter().enumerate() {
        for &need in needs {
            dependents[need].push(node);
        }
    }
    let mut ready: BinaryHeap<_> = (0..needs.len())
        .filter(|&node| open[node] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(needs.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for &dependent in &dependents[node] {
            open[dependent] -= 1;
            if open[dependent] == 0 {
                ready.push(Reverse(dependent));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_named_in_order() {
        assert_eq!(find_cycle(&[vec![1], vec![2], vec![0]]), Some(vec![0, 1, 2, 0]));
        assert_eq!(
            find_cycle(&[vec![], vec![0, 2], vec![3], vec![2]]),
            Some(vec![2, 3, 2])
        );
        assert_eq!(find_cycle(&[vec![], vec![0], vec![0, 1]]), None);
    }

    #[test]
    fn a_long_chain_is_no_trouble() {
        let chain: Vec<Vec<usize>> = (0..100_000)
            .map(|n| if n == 0 { vec![] } else { vec![n - 1] })
            .collect();
        assert_eq!(find_cycle(&chain), None);
        assert_eq!(leaves(&chain), [99_999]);
        assert_eq!(topological(&chain).len(), 100_000);
    }

    #[test]
    fn order_is_that_of_the_file_where_it_may_be() {
        assert_eq!(topological(&[vec![2], vec![], vec![], vec![0]]), [1, 2, 0, 3]);
    }
}
