"""The integrators' definition against mathematics, and the kernels against it: in Triton's interpreter where there is no GPU."""

import numpy as np
import pytest
import torch
from ase import units

from atomjet.data import Capacity, PredictionBuffers, Status, System, SystemBuffers
from atomjet.md.integrators import advance_reference, finish_reference
from atomjet.md.motion import Flag, Motion
from atomjet.md.noise import normals, philox, replica_seeds
from atomjet.units import AMU_A2_PER_FS2, BOLTZMANN

kernels = pytest.importorskip("atomjet.md.kernels")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = 1e-12  # relative; float64, products contracted and sums ordered differently


def motion_of(sizes, langevin=False, rows=5, seed=0, spare=3, device="cpu"):
    """Replicas of random atoms in buffers with room to spare."""
    generator = torch.Generator().manual_seed(seed)
    atoms = sum(sizes)
    capacity = Capacity(len(sizes) + 2, atoms + spare, 64, max(sizes))
    system = SystemBuffers.empty(capacity, device)
    index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    positions = torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
    system.fill(System(positions=positions, atomic_numbers=torch.ones(atoms), system_index=index).to(device))
    return Motion.start(
        system,
        velocities=0.01 * torch.randn(atoms, 3, generator=generator, dtype=torch.float64),
        masses=1 + 15 * torch.rand(atoms, generator=generator, dtype=torch.float64),
        seeds=replica_seeds(7, len(sizes)),
        hottest=torch.full((len(sizes),), 50.0),
        timestep=0.5,
        thermostat=(10.0, 300.0) if langevin else None,
        rows=rows,
    )


def springs(motion):
    """A harmonic well of 1 eV/Å² around the origin for every atom."""
    prediction = PredictionBuffers.empty(motion.system.capacity, motion.system.positions.device)
    prediction.buffer.fill_(torch.nan)
    prediction.status.zero_()
    atoms = int(motion.system.system_ptr[-1])
    x = motion.system.positions[:atoms]
    prediction.forces[:atoms] = -x
    energy = torch.zeros_like(prediction.energy, dtype=torch.float64)
    prediction.energy.copy_(energy.index_add_(0, motion.system.system_index[:atoms].long(), 0.5 * x.square().sum(1)))
    prediction.stress.fill_(0.25)
    return prediction


def test_philox_known_answers():
    # From the test vectors that its authors publish (kat_vectors, philox4x32-10).
    zeros = torch.zeros(1, dtype=torch.int64)
    assert [int(word) for word in philox(zeros, (zeros,) * 4)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = torch.full((1,), 0xFFFFFFFF)
    known = [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert [int(word) for word in philox(-torch.ones(1, dtype=torch.int64), (ones,) * 4)] == known


def test_noise_is_normal_and_independent():
    number = 200_000
    steps, atoms = torch.arange(number) // 20, torch.arange(number) % 20
    xi = normals(replica_seeds(0, 1).expand(number), steps, atoms)
    assert float(xi.mean(0).abs().max()) < 4 / number**0.5
    assert float((torch.cov(xi.T) - torch.eye(3)).abs().max()) < 5 * (2 / number) ** 0.5
    assert float((xi**4).mean()) == pytest.approx(3.0, abs=0.05)
    later = normals(replica_seeds(0, 1).expand(number), steps + 1, atoms)
    assert abs(float((xi * later).mean())) < 4 / (3 * number) ** 0.5
    other = normals(replica_seeds(0, 2)[1:].expand(number), steps, atoms)
    assert abs(float((xi * other).mean())) < 4 / (3 * number) ** 0.5


def step(motion, prediction):
    advance_reference(motion, prediction.forces)
    after = springs(motion)
    finish_reference(motion, after)
    return after


def test_velocity_verlet_conserves_and_is_of_second_order():
    errors = []
    for timestep in (2.0, 1.0):
        motion = motion_of([4, 3])
        motion.constants[0] = timestep
        prediction, totals = springs(motion), []
        for _ in range(int(60 / timestep)):
            prediction = step(motion, prediction)
            row = motion.record[int(motion.steps[0]) % 5]
            totals.append(row[:2, 0] + row[:2, 1])
        errors.append(float(torch.stack(totals).std(0).max()))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.15)


def test_langevin_samples_the_well():
    # ⟨½ k x²⟩ = ½ kT for each component whatever the timestep: BAOAB's configurations are exact for a harmonic well.
    motion = motion_of([400], langevin=True)
    motion.constants[0] = 2.0
    masses = 1.0 / motion.inverse_masses[:400] / AMU_A2_PER_FS2
    decay = float(np.exp(-50e-3 * 2.0))
    motion.constants[1] = decay
    motion.kicks[:400] = torch.sqrt((1 - decay**2) * BOLTZMANN * 300 / (masses * AMU_A2_PER_FS2))
    motion.system.positions.mul_(0.16)
    prediction, potential, kinetic = springs(motion), [], []
    for turn in range(1500):
        prediction = step(motion, prediction)
        if turn > 100:
            row = motion.record[int(motion.steps[0]) % 5, 0]
            potential.append(float(row[0]))
            kinetic.append(float(row[1]))
    expected = 0.5 * BOLTZMANN * 300 * 1200
    assert np.mean(potential) == pytest.approx(expected, rel=0.03)
    assert np.mean(kinetic) == pytest.approx(expected, rel=0.03)


def test_units_are_those_of_ase():
    assert pytest.approx(1 / units.fs**2) == AMU_A2_PER_FS2


def test_flagged_replica_goes_back_and_stays(monkeypatch):
    motion, alone = motion_of([3, 2, 4]), motion_of([3, 2, 4])
    prediction, undisturbed = springs(motion), springs(alone)
    for turn in range(4):
        advance_reference(motion, prediction.forces)
        advance_reference(alone, undisturbed.forces)
        prediction, undisturbed = springs(motion), springs(alone)
        if turn == 2:
            prediction.forces[3:5] = 500.0
            kept = motion.last_positions[3:5].clone(), motion.last_velocities[3:5].clone()
        finish_reference(motion, prediction)
        finish_reference(alone, undisturbed)
    assert motion.steps[:3].tolist() == [4, 2, 4]
    assert motion.flags[:3].tolist() == [0, int(Flag.FORCE), 0]
    assert torch.equal(motion.system.positions[3:5], kept[0])
    assert torch.equal(motion.velocities[3:5], kept[1])
    for first, last in ((0, 3), (5, 9)):
        assert torch.equal(motion.system.positions[first:last], alone.system.positions[first:last])
        assert torch.equal(motion.velocities[first:last], alone.velocities[first:last])


@pytest.mark.parametrize(
    ("break_it", "flag"),
    [
        (lambda p: p.forces[2].fill_(torch.nan), Flag.NOT_FINITE),
        (lambda p: p.energy[0].fill_(torch.inf), Flag.NOT_FINITE),
        (lambda p: p.forces[1, 2].fill_(-200.5), Flag.FORCE),
        (lambda p: p.forces[1, 2].fill_(-190.0), Flag.HOT),
    ],
)
def test_what_counts_as_exploded(break_it, flag):
    for finish in (finish_reference, kernels.launch_finish):
        motion = motion_of([3, 2], device=DEVICE)
        if flag == Flag.HOT:
            motion.hottest[0] = 1e-3
        prediction = springs(motion)
        advance_reference(motion, prediction.forces)
        break_it(prediction)
        finish(motion, prediction)
        assert motion.flags[:2].tolist() == [int(flag), 0]


def test_status_halts_all():
    for finish in (finish_reference, kernels.launch_finish):
        motion = motion_of([3, 2], device=DEVICE)
        before = motion.system.positions.clone()
        prediction = springs(motion)
        advance_reference(motion, prediction.forces)
        prediction.status.fill_(float(Status.EDGES))
        prediction.energy.fill_(torch.nan)
        finish(motion, prediction)
        assert motion.flags[:2].tolist() == [int(Status.EDGES)] * 2
        assert motion.steps[:2].tolist() == [0, 0]
        assert torch.equal(motion.system.positions, before)


@pytest.mark.parametrize("sizes", [[1], [33, 5, 64], [200, 3]], ids=str)
@pytest.mark.parametrize("langevin", [False, True], ids=["nve", "nvt"])
def test_kernels_equal_the_definition(sizes, langevin):
    exact, fast = (motion_of(sizes, langevin, device=DEVICE) for _ in range(2))
    for motion in (exact, fast):
        motion.steps[0] = 2**33 + 5  # the noise counts beyond 32 bits
    for turn in range(3):
        prediction, same = springs(exact), springs(fast)
        advance_reference(exact, prediction.forces)
        kernels.launch_advance(fast, same.forces)
        prediction, same = springs(exact), springs(fast)
        if turn == 1 and len(sizes) > 1:
            for broken in (prediction, same):
                broken.forces[sizes[0]] = 300.0
        finish_reference(exact, prediction)
        kernels.launch_finish(fast, same)
    for name in ("velocities", "last_positions", "last_velocities", "record"):
        a, b = getattr(fast, name), getattr(exact, name)
        torch.testing.assert_close(a, b, rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close(fast.system.positions, exact.system.positions, rtol=ROUNDING, atol=ROUNDING)
    assert torch.equal(fast.flags, exact.flags)
    assert torch.equal(fast.steps, exact.steps)
    assert fast.steps[0] == 2**33 + 8
