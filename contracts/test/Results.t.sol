// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {DevTangleTypes} from "../src/dev/DevTangleTypes.sol";
import {IFaaSBlueprint as Faas} from "../src/interfaces/IFaaSBlueprint.sol";
import {ChainFixture} from "./ChainFixture.sol";
import {vm, Vm} from "./Vm.sol";

/// @notice The result gate: what ends a job, what does not, and what is left when the hook itself fails.
contract ResultsTest is ChainFixture {
    uint64 private service;
    uint64 private call;
    address private assignee;
    address private rival;

    function setUp() public {
        service = _service(2, 8);
        call = _echo(service);
        assignee = _assignee(service, call);
        rival = _other(assignee);
    }

    function _expectStillPending() private view {
        _eq(Faas.Status.Pending, _status(service, call));
        require(!_isCompleted(service, call), "completed by a refused result");
        _eq(1, _load(assignee));
    }

    function _expectRejected(address operator, bytes memory result, Faas.Rejection reason) private {
        vm.recordLogs();
        _answer(operator, service, call, result);
        Vm.Log memory log = _log(Faas.JobResultRejected.selector);
        _eq(uint256(reason), abi.decode(log.data, (uint256)));
        require(
            faas.hadItsChance(service, call, operator), "Tangle took its answer; it must not be asked again"
        );
    }

    function test_result_of_the_assignee_completes_the_job() public {
        vm.recordLogs();
        _answer(assignee, service, call, _done());
        Vm.Log memory log = _log(Faas.JobResultAccepted.selector);
        (uint8 status, bytes32 hash) = abi.decode(log.data, (uint8, bytes32));
        _eq(2, status);
        require(hash == keccak256(_done()), "hash of something else");
        require(_isCompleted(service, call), "not completed");
        _eq(Faas.Status.Done, _status(service, call));
        require(faas.getJob(service, call).resultHash == hash, "hash not kept");
        _eq(0, _load(assignee));
        _eq(1, faas.operators(assignee).completed);
        _eq(block.timestamp, faas.operators(assignee).lastResultAt);
    }

    function test_result_of_another_operator_completes_nothing() public {
        _expectRejected(rival, _done(), Faas.Rejection.NotAssignee);
        _expectStillPending();
        _answer(assignee, service, call, _done());
        require(_isCompleted(service, call), "assignee locked out by a rival");
        _eq(0, faas.operators(rival).completed);
    }

    function test_failure_is_a_result() public {
        _answer(assignee, service, call, _result(Faas.Status.Failed, ECHO, 0));
        _eq(Faas.Status.Failed, _status(service, call));
        require(_isCompleted(service, call), "not completed");
        _eq(1, faas.operators(assignee).failed);
        _eq(0, faas.operators(assignee).completed);
    }

    function test_malformed_result_of_the_assignee_ends_the_job_as_failed() public {
        _answer(assignee, service, call, hex"deadbeef");
        _eq(Faas.Status.Failed, _status(service, call));
        require(_isCompleted(service, call), "not completed");
        _eq(0, _load(assignee));
    }

    function test_result_with_a_receipt_completes() public {
        bytes memory signed =
            abi.encode(uint8(2), keccak256(ECHO), bytes32(0), bytes("out"), bytes("receipt"));
        _answer(assignee, service, call, signed);
        _eq(Faas.Status.Done, _status(service, call));
        require(_isCompleted(service, call), "not completed");
    }

    function test_malformed_result_of_another_completes_nothing() public {
        _expectRejected(rival, hex"deadbeef", Faas.Rejection.Malformed);
        _expectStillPending();
    }

    function test_status_that_is_no_end_is_malformed() public {
        bytes memory pending = abi.encode(uint8(1), keccak256(ECHO), bytes32(0), bytes("out"));
        _expectRejected(rival, pending, Faas.Rejection.Malformed);
        bytes memory expired = abi.encode(uint8(5), keccak256(ECHO), bytes32(0), bytes("out"));
        _answer(assignee, service, call, expired);
        _eq(Faas.Status.Failed, _status(service, call));
    }

    function test_late_result_of_a_reorged_call_does_not_settle_its_namesake() public {
        _expectRejected(assignee, _result(Faas.Status.Done, "other", 0), Faas.Rejection.OtherInputs);
        _expectStillPending();
        // Tangle takes no second answer of the assignee, so anybody may pass the job on at once.
        vm.prank(stranger);
        faas.reassign(service, call);
        _answer(rival, service, call, _done());
        require(_isCompleted(service, call), "not completed");
    }

    function test_assignee_may_not_plead_its_own_time_out() public {
        _pastDeadline(service, call);
        _expectRejected(assignee, _timedOut(), Faas.Rejection.TimedOutByAssignee);
        _expectStillPending();
    }

    function test_nobody_may_time_a_job_out_before_its_deadline() public {
        vm.warp(faas.getJob(service, call).deadline);
        _expectRejected(rival, _timedOut(), Faas.Rejection.NotAssignee);
        _expectStillPending();
    }

    function test_any_operator_may_time_a_job_out_after_its_deadline() public {
        _pastDeadline(service, call);
        _answer(rival, service, call, _timedOut());
        _eq(Faas.Status.TimedOut, _status(service, call));
        require(_isCompleted(service, call), "not completed");
        _eq(0, _load(assignee));
        _eq(1, faas.operators(assignee).failed);
        _eq(0, faas.operators(rival).lastResultAt);
    }

    function test_late_assignee_may_still_deliver_what_nobody_took_over() public {
        _pastDeadline(service, call);
        _answer(assignee, service, call, _done());
        _eq(Faas.Status.Done, _status(service, call));
    }

    function test_second_result_is_refused_by_tangle() public {
        _answer(assignee, service, call, _done());
        vm.expectRevert(abi.encodeWithSelector(DevTangleTypes.JobAlreadyCompleted.selector, service, call));
        _answer(rival, service, call, _done());
    }

    function test_result_for_an_ended_job_changes_nothing() public {
        _answer(assignee, service, call, _done());
        vm.recordLogs();
        vm.prank(address(tangle));
        faas.onJobResult(service, EXECUTE, call, rival, keccak256(ECHO), _done());
        _eq(
            uint256(Faas.Rejection.NotPending),
            abi.decode(_log(Faas.JobResultRejected.selector).data, (uint256))
        );
        _eq(0, _load(assignee));
        _eq(1, faas.operators(assignee).completed);
    }

    function test_gate_says_the_nominal_number_to_others() public view {
        _eq(1, faas.getRequiredResultCount(service, EXECUTE));
    }

    function test_gate_is_shut_for_tangle_outside_a_result() public {
        vm.prank(address(tangle));
        _eq(type(uint32).max, faas.getRequiredResultCount(service, EXECUTE));
    }

    function test_batch_completes_only_the_own_jobs() public {
        uint64[] memory calls = new uint64[](4);
        bytes[] memory results = new bytes[](4);
        for (uint256 i; i < 4; ++i) {
            calls[i] = i == 0 ? call : _echo(service);
            results[i] = _done();
        }
        vm.prank(assignee);
        tangle.submitResults(service, calls, results);
        for (uint256 i; i < 4; ++i) {
            bool isOwn = _assignee(service, calls[i]) == assignee;
            require(_isCompleted(service, calls[i]) == isOwn, "a batch completed a foreign job");
        }
        _eq(0, _load(assignee));
        _eq(2, _load(rival));
    }

    function test_hook_out_of_gas_is_swallowed_and_completes_nothing() public {
        tangle.setHookGasLimit(20_000); // enough for the views, not for the hook
        vm.recordLogs();
        _answer(assignee, service, call, _done());
        Vm.Log memory log = _log(DevTangleTypes.ManagerHookFailed.selector);
        _eq(address(faas), address(uint160(uint256(log.topics[1]))));
        require(bytes4(log.topics[2]) == faas.onJobResult.selector, "another hook failed");
        _expectStillPending();
        tangle.setHookGasLimit(500_000);
        vm.prank(assignee);
        faas.reassign(service, call);
        _answer(rival, service, call, _done());
        require(_isCompleted(service, call), "not completed");
    }

    /// @dev Whatever gas a cheat sends, its batch of one own job and one foreign job never completes the foreign.
    function testFuzz_no_amount_of_gas_opens_the_gate_for_a_rival(uint256 gasLimit) public {
        uint64[] memory calls = new uint64[](2);
        bytes[] memory results = new bytes[](2);
        uint64 foreign = _echo(service);
        (calls[0], calls[1]) = (call, foreign);
        (results[0], results[1]) = (_done(), _done());
        address cheat = assignee;
        require(_assignee(service, foreign) != cheat, "the two jobs must differ in assignee");
        vm.prank(cheat);
        (bool isDone,) = address(tangle).call{gas: 30_000 + gasLimit % 400_000}(
            abi.encodeCall(tangle.submitResults, (service, calls, results))
        );
        require(!_isCompleted(service, foreign), "starved hook opened the gate");
        if (isDone) {
            _eq(_status(service, call), _isCompleted(service, call) ? Faas.Status.Done : Faas.Status.Pending);
        } else {
            _eq(Faas.Status.Pending, _status(service, call));
        }
    }

    function testFuzz_hook_never_reverts_on_any_bytes(bytes calldata result) public {
        vm.prank(address(tangle));
        faas.onJobResult(service, EXECUTE, call, assignee, keccak256(ECHO), result);
        require(_status(service, call) != Faas.Status.Pending || result.length >= 160, "settled by nothing");
    }

    function test_result_as_large_as_a_transaction_is_accepted() public {
        bytes memory large = abi.encode(uint8(2), keccak256(ECHO), bytes32(0), new bytes(120_000));
        _answer(assignee, service, call, large);
        _eq(Faas.Status.Done, _status(service, call));
    }
}
