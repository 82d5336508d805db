"""The life of a job on a real node: what operators and clients will see and must survive."""

import asyncio

import pytest
from eth_hash.auto import keccak
from tests.chain.world import deploy_world, error_of, result, selector
from web3.exceptions import ContractCustomError

from faas.chain.codec import JobStatus, Rejection


async def test_service_is_active_with_its_registered_operators(world):
    assert await world.tangle.functions.isServiceActive(world.service).call()
    serving = await world.tangle.functions.getServiceOperators(world.service).call()
    assert serving == world.operators
    known = await world.faas.functions.operators(world.operators[0]).call()
    assert known[:2] == [0, 4] or known[:2] == (0, 4)


async def test_submission_is_told_by_tangle_first_and_by_the_manager_after(world):
    call, receipt = await world.submit()
    [submitted] = world.events(world.tangle, "JobSubmitted", receipt)
    [assigned] = world.events(world.faas, "JobAssigned", receipt)
    assert submitted["logIndex"] < assigned["logIndex"]
    assert len(submitted["topics"] if "topics" in submitted else receipt["logs"][0]["topics"]) == 3
    assert assigned["args"]["operator"] == await world.assignee(call)
    assert assigned["args"]["attempt"] == 1


async def test_submission_stays_below_the_promised_gas(world):
    _, receipt = await world.submit(b"x" * 320)
    assert receipt["gasUsed"] <= 300_000


async def test_result_of_the_assignee_is_accepted_and_completes(world):
    call, _ = await world.submit()
    operator = await world.assignee(call)
    receipt = await world.answer(operator, call, result())
    [accepted] = world.events(world.faas, "JobResultAccepted", receipt)
    [handed_in] = world.events(world.tangle, "JobResultSubmitted", receipt)
    [completed] = world.events(world.tangle, "JobCompleted", receipt)
    assert accepted["logIndex"] < handed_in["logIndex"] < completed["logIndex"]
    assert accepted["args"]["outputHash"] == keccak(handed_in["args"]["result"])
    assert accepted["args"]["status"] == JobStatus.DONE
    assert await world.load(operator) == 0


async def test_result_of_the_wrong_operator_is_refused_and_completes_nothing(world):
    call, _ = await world.submit()
    operator = await world.assignee(call)
    rival = await world.rival(operator)
    receipt = await world.answer(rival, call, result())
    [rejected] = world.events(world.faas, "JobResultRejected", receipt)
    assert rejected["args"]["reason"] == Rejection.NOT_ASSIGNEE
    assert world.events(world.tangle, "JobResultSubmitted", receipt), "Tangle tells it all the same"
    assert not world.events(world.tangle, "JobCompleted", receipt)
    assert await world.status(call) is JobStatus.PENDING
    await world.answer(operator, call, result())
    assert await world.is_completed(call)


async def test_operator_outside_the_service_cannot_answer(world):
    call, _ = await world.submit()
    with pytest.raises(ContractCustomError) as raised:
        await world.answer(world.stranger, call, result())
    assert error_of(raised.value) == selector("OperatorNotInService(uint64,address)")


async def test_late_job_is_passed_on_and_answered_by_the_other(world):
    call, _ = await world.submit()
    first = await world.assignee(call)
    reassign = world.faas.functions.reassign(world.service, call)
    with pytest.raises(ContractCustomError) as raised:
        await world.send(reassign, world.stranger)
    assert error_of(raised.value) == selector("DeadlineNotReached(uint40)")
    await world.past_deadline(call)
    receipt = await world.send(reassign, world.stranger)
    [assigned] = world.events(world.faas, "JobAssigned", receipt)
    second = await world.assignee(call)
    assert second == assigned["args"]["operator"] == await world.rival(first)
    assert assigned["args"]["attempt"] == 2
    late = await world.answer(first, call, result())
    assert not world.events(world.tangle, "JobCompleted", late)
    await world.answer(second, call, result())
    assert await world.is_completed(call)
    assert [await world.load(operator) for operator in world.operators] == [0, 0]


async def test_job_that_nobody_answers_is_settled_as_timed_out(world):
    call, _ = await world.submit()
    rival = await world.rival(await world.assignee(call))
    await world.past_deadline(call)
    await world.answer(rival, call, result(JobStatus.TIMED_OUT))
    assert await world.status(call) is JobStatus.TIMED_OUT
    assert await world.is_completed(call)


async def test_hook_out_of_gas_is_swallowed_and_completes_nothing(ground, world):
    call, _ = await world.submit()
    operator = await world.assignee(call)
    # Enough for the views, not for the hook.
    await ground.limit_hooks(world, 20_000)
    receipt = await world.answer(operator, call, result())
    await ground.limit_hooks(world, 500_000)
    [failed] = world.events(world.tangle, "ManagerHookFailed", receipt)
    assert failed["args"]["manager"] == world.faas.address
    assert not world.events(world.faas, "JobResultAccepted", receipt)
    assert not world.events(world.tangle, "JobCompleted", receipt)
    assert await world.status(call) is JobStatus.PENDING


async def test_result_with_too_little_gas_for_the_hook_does_not_land_or_does_not_complete(world):
    call, _ = await world.submit()
    operator = await world.assignee(call)
    submit = world.tangle.functions.submitResult(world.service, call, result())
    for gas in range(60_000, 150_000, 7_500):
        snapshot = (await world.w3.provider.make_request("evm_snapshot", []))["result"]
        digest = await submit.transact({"from": operator, "gas": gas})
        receipt = await world.w3.eth.wait_for_transaction_receipt(digest)
        accepted = world.events(world.faas, "JobResultAccepted", receipt)
        completed = world.events(world.tangle, "JobCompleted", receipt)
        assert len(accepted) == len(completed), f"with {gas} gas"
        await world.w3.provider.make_request("evm_revert", [snapshot])


async def test_malformed_result_ends_the_job_as_failed(world):
    call, _ = await world.submit()
    await world.answer(await world.assignee(call), call, b"\xba\xd0")
    assert await world.status(call) is JobStatus.FAILED


async def test_full_service_pushes_back_before_anything_is_paid(ground):
    world = await deploy_world(ground, operators=1, capacity=1)
    await world.submit()
    with pytest.raises(ContractCustomError) as raised:
        await world.submit()
    assert error_of(raised.value) == selector("ManagerReverted(address,bytes)")
    assert selector("NoOperatorFree(uint64)")[2:] in str(raised.value.data)


async def test_unknown_job_is_refused(world):
    with pytest.raises(ContractCustomError) as raised:
        await world.submit(job=12)
    assert error_of(raised.value) == selector("InvalidJobIndex(uint8)")


async def test_200_jobs_over_3_operators_are_balanced_within_one(ground):
    world = await deploy_world(ground, operators=3, capacity=100)
    w3 = ground.w3
    submit = world.tangle.functions.submitJob(world.service, 0, b"echo")
    nonce = await w3.eth.get_transaction_count(world.user)
    fields = {"from": world.user, "gas": 400_000}
    digests = [await submit.transact({**fields, "nonce": nonce + index}) for index in range(200)]
    async with asyncio.TaskGroup() as group:
        receipts = [
            group.create_task(w3.eth.wait_for_transaction_receipt(digest)) for digest in digests
        ]
    assert all(receipt.result()["status"] == 1 for receipt in receipts)
    loads = [await world.load(operator) for operator in world.operators]
    assert sum(loads) == 200
    assert max(loads) - min(loads) <= 1


async def test_batch_settles_only_the_own_jobs(world):
    calls = [(await world.submit())[0] for _ in range(4)]
    operator = world.operators[0]
    own = [call for call in calls if await world.assignee(call) == operator]
    assert len(own) == 2
    batch = world.tangle.functions.submitResults(world.service, calls, [result()] * 4)
    await world.send(batch, operator)
    assert [call for call in calls if await world.is_completed(call)] == own


async def test_output_of_110_kilobytes_is_carried(world):
    call, _ = await world.submit()
    data = result(output=bytes(110_000))
    receipt = await world.answer(await world.assignee(call), call, data)
    [handed_in] = world.events(world.tangle, "JobResultSubmitted", receipt)
    assert handed_in["args"]["result"] == data
    assert await world.status(call) is JobStatus.DONE


async def test_reorg_takes_the_call_and_its_number_is_used_again(world):
    snapshot = (await world.w3.provider.make_request("evm_snapshot", []))["result"]
    first, _ = await world.submit(b"first")
    await world.w3.provider.make_request("evm_revert", [snapshot])
    second, _ = await world.submit(b"second")
    assert first == second
    operator = await world.assignee(second)
    receipt = await world.answer(operator, second, result(inputs=b"first"))
    [rejected] = world.events(world.faas, "JobResultRejected", receipt)
    assert rejected["args"]["reason"] == Rejection.OTHER_INPUTS
    assert not await world.is_completed(second)
