//! What can happen in the simulation.

use proptest::prelude::*;

use crate::watch::Kind;

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    AddPod {
        pod: usize,
        label: usize,
        host: usize,
    },
    DeletePod(usize),
    FinishPod(usize),
    Relabel {
        pod: usize,
        label: usize,
    },
    AddBinding {
        binding: usize,
        identity: usize,
        label: usize,
    },
    DeleteBinding(usize),
    AddIdentity(usize),
    /// The object of one name leads to the Azure identity of another.
    EditIdentity {
        identity: usize,
        resource: usize,
    },
    DeleteIdentity(usize),
    /// Somebody else attaches or detaches an Azure identity.
    OthersAttach {
        host: usize,
        resource: usize,
    },
    OthersDetach {
        host: usize,
        resource: usize,
    },
    /// The VM or scale set and its nodes are deleted.
    DeleteHost(usize),
    /// A node comes back under its name in another scale set, faster than its pods go.
    MoveNode {
        node: usize,
        host: usize,
    },
    Forbid(usize),
    Allow(usize),
    FailArm {
        after_effect: bool,
    },
    FailRecord {
        after_effect: bool,
    },
    /// ARM does not want to hear of the host for some seconds.
    Throttle {
        host: usize,
        seconds: u64,
    },
    /// A cache stays as it is until it is released: the others overtake it.
    Hold(Kind),
    Release(Kind),
    /// Somebody else writes the record without changing what it says is ours.
    OthersTouchRecord(usize),
    /// ARM takes so long with each change from now on, or no longer, that it is told of meanwhile.
    SlowArm(bool),
    FailWrite,
    Crash,
    Advance(u64),
    Work(usize),
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let (four, three, two) = (0..4_usize, 0..3_usize, 0..2_usize);
    prop_oneof![
        4 => (four.clone(), two.clone(), three.clone())
            .prop_map(|(pod, label, host)| Op::AddPod { pod, label, host }),
        2 => four.clone().prop_map(Op::DeletePod),
        1 => four.clone().prop_map(Op::FinishPod),
        1 => (four.clone(), two.clone()).prop_map(|(pod, label)| Op::Relabel { pod, label }),
        3 => (three.clone(), four.clone(), two)
            .prop_map(|(binding, identity, label)| Op::AddBinding { binding, identity, label }),
        1 => three.clone().prop_map(Op::DeleteBinding),
        4 => four.clone().prop_map(Op::AddIdentity),
        1 => (four.clone(), four.clone())
            .prop_map(|(identity, resource)| Op::EditIdentity { identity, resource }),
        1 => four.clone().prop_map(Op::DeleteIdentity),
        1 => (three.clone(), four.clone())
            .prop_map(|(host, resource)| Op::OthersAttach { host, resource }),
        1 => (three.clone(), four.clone())
            .prop_map(|(host, resource)| Op::OthersDetach { host, resource }),
        1 => three.clone().prop_map(Op::DeleteHost),
        1 => (three.clone(), three.clone()).prop_map(|(node, host)| Op::MoveNode { node, host }),
        1 => (three.clone(), 1..200_u64)
            .prop_map(|(host, seconds)| Op::Throttle { host, seconds }),
        1 => kind().prop_map(Op::Hold),
        2 => kind().prop_map(Op::Release),
        1 => three.prop_map(Op::OthersTouchRecord),
        1 => any::<bool>().prop_map(Op::SlowArm),
        1 => four.clone().prop_map(Op::Forbid),
        1 => four.prop_map(Op::Allow),
        1 => any::<bool>().prop_map(|after_effect| Op::FailArm { after_effect }),
        1 => any::<bool>().prop_map(|after_effect| Op::FailRecord { after_effect }),
        1 => Just(Op::FailWrite),
        2 => Just(Op::Crash),
        3 => (1..400_u64).prop_map(Op::Advance),
        5 => (1..6_usize).prop_map(Op::Work),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select(vec![
        Kind::Pods,
        Kind::Nodes,
        Kind::Identities,
        Kind::Bindings,
        Kind::Assigned,
        Kind::Attachments,
    ])
}
