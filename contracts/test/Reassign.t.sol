// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IFaaSBlueprint as Faas} from "../src/interfaces/IFaaSBlueprint.sol";
import {ChainFixture} from "./ChainFixture.sol";
import {vm, Vm} from "./Vm.sol";

/// @notice What becomes of a job whose operator does not answer.
contract ReassignTest is ChainFixture {
    uint64 private service;
    uint64 private call;
    address private first;

    function setUp() public {
        service = _service(4, 4);
        call = _echo(service);
        first = _assignee(service, call);
    }

    function _reassign(address caller) private returns (address) {
        vm.prank(caller);
        return faas.reassign(service, call);
    }

    function test_assignee_may_decline_at_once() public {
        address second = _reassign(first);
        require(second != first, "given back to the same operator");
        _eq(second, _assignee(service, call));
        _eq(0, _load(first));
        _eq(1, _load(second));
        _eq(0, faas.operators(first).failed);
    }

    function test_stranger_must_wait_for_the_deadline() public {
        uint40 deadline = faas.getJob(service, call).deadline;
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(Faas.DeadlineNotReached.selector, deadline));
        _reassign(stranger);
    }

    function test_anybody_may_pass_a_late_job_on() public {
        _pastDeadline(service, call);
        vm.recordLogs();
        address second = _reassign(stranger);
        (, uint8 attempt, uint40 deadline,) =
            abi.decode(_log(Faas.JobAssigned.selector).data, (uint8, uint8, uint40, bool));
        _eq(2, attempt);
        _eq(block.timestamp + 10 minutes, deadline);
        _eq(1, faas.operators(first).failed);
        _answer(second, service, call, _done());
        require(_isCompleted(service, call), "not completed");
    }

    function test_late_result_of_the_former_assignee_is_refused() public {
        _pastDeadline(service, call);
        address second = _reassign(stranger);
        _answer(first, service, call, _done());
        require(!_isCompleted(service, call), "two operators, one job");
        _eq(1, _load(second));
    }

    function test_job_never_goes_back_to_an_operator_that_had_it() public {
        address second = _reassign(first);
        address third = _reassign(second);
        require(third != first && third != second, "given back");
        _eq(3, faas.getJob(service, call).attempts);
        vm.expectRevert(abi.encodeWithSelector(Faas.NoAttemptsLeft.selector, service, call));
        _reassign(third);
    }

    function test_job_never_goes_to_an_operator_whose_answer_is_spent() public {
        for (uint256 i; i < 4; ++i) {
            if (_operator(i) != first && i != 3 && _operator(3) != first) {
                _answer(_operator(i), service, call, _done());
            } else if (_operator(i) != first && i != 2 && _operator(3) == first) {
                _answer(_operator(i), service, call, _done());
            }
        }
        address left = _operator(3) == first ? _operator(2) : _operator(3);
        _eq(left, _reassign(first));
    }

    function test_refused_reassignment_changes_nothing() public {
        for (uint256 i; i < 4; ++i) {
            if (_operator(i) == first) continue;
            vm.prank(_operator(i));
            faas.setCapacity(4, true);
        }
        vm.expectRevert(abi.encodeWithSelector(Faas.NoOperatorFree.selector, service));
        _reassign(first);
        _eq(first, _assignee(service, call));
        _eq(1, _load(first));
        require(!faas.hadItsChance(service, call, first), "marked although it keeps the job");
    }

    function test_job_of_an_operator_that_left_can_be_passed_on_at_once() public {
        tangle.forceRemoveOperator(service, first);
        require(_reassign(stranger) != first, "given back");
    }

    function test_ended_job_cannot_be_passed_on() public {
        _answer(first, service, call, _done());
        vm.expectRevert(abi.encodeWithSelector(Faas.JobNotPending.selector, service, call, Faas.Status.Done));
        _reassign(first);
    }

    function test_unknown_job_cannot_be_passed_on() public {
        vm.expectRevert(abi.encodeWithSelector(Faas.JobNotPending.selector, service, 99, Faas.Status.None));
        faas.reassign(service, 99);
    }

    function test_nobody_answered_gives_the_slot_back_after_the_grace() public {
        uint40 until = faas.getJob(service, call).deadline + 1 hours;
        vm.warp(until);
        vm.expectRevert(abi.encodeWithSelector(Faas.DeadlineNotReached.selector, until));
        faas.expire(service, call);
        vm.warp(until + 1);
        vm.prank(stranger);
        faas.expire(service, call);
        _eq(0, _load(first));
        _eq(Faas.Status.Expired, _status(service, call));
    }

    function test_slot_is_given_back_once() public {
        vm.warp(faas.getJob(service, call).deadline + 1 hours + 1);
        faas.expire(service, call);
        vm.expectRevert(
            abi.encodeWithSelector(Faas.JobNotPending.selector, service, call, Faas.Status.Expired)
        );
        faas.expire(service, call);
    }

    function test_expired_job_can_still_be_settled_without_touching_the_load() public {
        vm.warp(faas.getJob(service, call).deadline + 1 hours + 1);
        faas.expire(service, call);
        _answer(first, service, call, _done());
        require(_isCompleted(service, call), "not completed");
        _eq(0, _load(first));
        _eq(1, faas.operators(first).completed);
        _eq(1, faas.operators(first).failed);
    }

    function test_end_of_the_service_frees_the_slots_at_once() public {
        vm.prank(user);
        tangle.terminateService(service);
        faas.expire(service, call);
        _eq(0, _load(first));
    }
}
