// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {FaaSBlueprint} from "../src/FaaSBlueprint.sol";
import {DevStatusRegistry} from "../src/dev/DevStatusRegistry.sol";
import {DevTangleTypes} from "../src/dev/DevTangleTypes.sol";
import {IFaaSBlueprint as Faas} from "../src/interfaces/IFaaSBlueprint.sol";
import {ChainFixture} from "./ChainFixture.sol";
import {vm, Vm} from "./Vm.sol";

/// @notice Registration, capacity, and who gets a job.
contract AssignmentTest is ChainFixture {
    function test_capacity_is_the_one_word_of_the_registration() public {
        _eq(7, faas.operators(_register(0, 7)).capacity);
    }

    function test_registration_without_inputs_gets_the_default_capacity() public {
        bytes memory key = abi.encodePacked(uint8(4), keccak256("x"), keccak256("y"));
        vm.prank(_operator(0));
        tangle.registerOperator(blueprintId, key, "http://127.0.0.1");
        _eq(4, faas.operators(_operator(0)).capacity);
    }

    function test_zero_capacity_at_registration_means_the_default() public {
        _eq(4, faas.operators(_register(0, 0)).capacity);
    }

    function test_a_boast_is_refused_at_registration() public {
        bytes memory key = abi.encodePacked(uint8(4), keccak256("x"), keccak256("y"));
        _expectManagerRevert(abi.encodeWithSelector(Faas.CapacityOutOfRange.selector, 1025, 1024));
        vm.prank(_operator(0));
        tangle.registerOperator(blueprintId, key, "http://127.0.0.1", abi.encode(uint256(1025)));
    }

    function test_stranger_cannot_set_a_capacity() public {
        vm.expectRevert(abi.encodeWithSelector(Faas.OperatorNotActive.selector, stranger));
        vm.prank(stranger);
        faas.setCapacity(4, false);
    }

    function test_capacity_of_nothing_is_refused() public {
        address operator = _register(0, 4);
        vm.expectRevert(abi.encodeWithSelector(Faas.CapacityOutOfRange.selector, 0, 1024));
        vm.prank(operator);
        faas.setCapacity(0, true);
    }

    function test_coming_back_keeps_the_load_of_open_jobs() public {
        uint64 service = _service(1, 4);
        _echo(service);
        vm.prank(user);
        tangle.terminateService(service);
        vm.prank(_operator(0));
        tangle.unregisterOperator(blueprintId);
        require(!faas.operators(_operator(0)).active, "still active");
        _register(0, 9);
        _eq(1, _load(_operator(0)));
        _eq(9, faas.operators(_operator(0)).capacity);
    }

    function test_job_goes_to_one_operator_and_is_told() public {
        uint64 service = _service(2, 4);
        vm.recordLogs();
        uint64 call = _echo(service);
        Vm.Log memory log = _log(Faas.JobAssigned.selector);
        address operator = _assignee(service, call);
        _eq(uint256(uint160(operator)), uint256(log.topics[3]));
        (uint8 job, uint8 attempt, uint40 deadline, bool sticky) =
            abi.decode(log.data, (uint8, uint8, uint40, bool));
        _eq(EXECUTE, job);
        _eq(1, attempt);
        _eq(block.timestamp + 10 minutes, deadline);
        require(!sticky, "sticky without a resource");
        _eq(1, _load(operator));
        _eq(0, _load(_other(operator)));
    }

    function test_equals_take_turns() public {
        uint64 service = _service(3, 8);
        for (uint256 i; i < 21; ++i) {
            _echo(service);
        }
        for (uint256 i; i < 3; ++i) {
            _eq(7, _load(_operator(i)));
        }
    }

    function test_load_is_shared_by_capacity() public {
        _register(0, 2);
        _register(1, 8);
        uint64 service = _service(2, 0);
        for (uint256 i; i < 5; ++i) {
            _echo(service);
        }
        _eq(1, _load(_operator(0)));
        _eq(4, _load(_operator(1)));
    }

    function test_full_service_pushes_back() public {
        uint64 service = _service(2, 1);
        _echo(service);
        _echo(service);
        _expectManagerRevert(abi.encodeWithSelector(Faas.NoOperatorFree.selector, service));
        _echo(service);
    }

    function test_draining_operator_gets_nothing_new() public {
        uint64 service = _service(2, 4);
        vm.prank(_operator(0));
        faas.setCapacity(4, true);
        for (uint256 i; i < 4; ++i) {
            _eq(_operator(1), _assignee(service, _echo(service)));
        }
    }

    function test_operator_outside_the_service_gets_nothing() public {
        uint64 service = _service(1, 2);
        _register(5, 1000);
        _eq(_operator(0), _assignee(service, _echo(service)));
        _eq(_operator(0), _assignee(service, _echo(service)));
    }

    function test_same_call_number_of_two_services_is_two_jobs() public {
        uint64 one = _service(1, 4);
        uint64 two = _service(2, 4);
        uint64 first = _echo(one);
        uint64 second = _echo(two);
        _eq(first, second);
        _answer(_assignee(one, first), one, first, _done());
        _eq(Faas.Status.Done, _status(one, first));
        _eq(Faas.Status.Pending, _status(two, second));
    }

    function test_unknown_job_is_refused() public {
        FaaSBlueprint second = new FaaSBlueprint(address(tangle), owner);
        vm.prank(owner);
        uint64 id = tangle.createBlueprint(_definition(address(second), 13));
        vm.prank(_operator(0));
        bytes memory key = abi.encodePacked(uint8(4), keccak256("x"), keccak256("y"));
        tangle.registerOperator(id, key, "http://127.0.0.1", abi.encode(uint256(4)));
        address[] memory chosen = new address[](1);
        chosen[0] = _operator(0);
        vm.prank(user);
        uint64 request = tangle.requestService(id, chosen, "", new address[](0), 0, address(0), 0, 0);
        _approve(0, request);
        uint64 service = tangle.serviceCount() - 1;
        bytes memory reason = abi.encodeWithSelector(Faas.UnknownJob.selector, 12);
        vm.expectRevert(
            abi.encodeWithSelector(DevTangleTypes.ManagerReverted.selector, address(second), reason)
        );
        _submit(service, 12, "");
    }

    function test_preview_says_who_comes_next() public {
        uint64 service = _service(3, 4);
        for (uint64 call; call < 12; ++call) {
            address expected = faas.previewOperator(service, call, 0);
            _eq(expected, _assignee(service, _echo(service)));
        }
        _eq(address(0), faas.previewOperator(service, 12, 0));
    }

    function test_time_limit_of_the_caller_sets_the_deadline() public {
        uint64 service = _service(1, 8);
        _eq(block.timestamp + 90 + 120, _deadlineOf(service, 89_001));
        _eq(block.timestamp + 10 minutes, _deadlineOf(service, 0));
        _eq(block.timestamp + 7 days, _deadlineOf(service, type(uint64).max));
    }

    function test_owner_sets_the_time_of_one_kind_of_job() public {
        uint64 service = _service(1, 8);
        vm.prank(owner);
        faas.setJobTimeout(EXECUTE, 45);
        _eq(block.timestamp + 45, faas.getJob(service, _echo(service)).deadline);
        _eq(10 minutes, faas.jobTimeout(START_INSTANCE));
    }

    function test_time_out_of_range_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(Faas.TimeoutOutOfRange.selector, 29, 30, 7 days));
        vm.prank(owner);
        faas.setJobTimeout(EXECUTE, 29);
    }

    function test_silent_operator_is_passed_over() public {
        DevStatusRegistry registry = new DevStatusRegistry();
        uint64 service = _service(3, 8);
        vm.prank(owner);
        faas.setStatusRegistry(address(registry));
        vm.prank(_operator(2));
        registry.submitHeartbeatDirect(service, blueprintId, 0, "");
        for (uint256 i; i < 5; ++i) {
            _eq(_operator(2), _assignee(service, _echo(service)));
        }
    }

    function test_silence_of_all_or_of_the_registry_does_not_stop_the_service() public {
        uint64 service = _service(2, 8);
        address silent = address(new DevStatusRegistry());
        vm.prank(owner);
        faas.setStatusRegistry(silent);
        _echo(service);
        vm.prank(owner);
        faas.setStatusRegistry(address(tangle)); // answers every unknown call with a revert
        _echo(service);
        _eq(2, _load(_operator(0)) + _load(_operator(1)));
    }

    function test_large_service_is_assigned_within_the_hooks_gas() public {
        uint64 service = _service(24, 2);
        for (uint256 i; i < 48; ++i) {
            _echo(service);
        }
        for (uint256 i; i < 24; ++i) {
            _eq(2, _load(_operator(i)));
        }
    }

    function test_service_too_large_for_the_hook_is_refused_when_requested() public {
        for (uint256 i; i < 25; ++i) {
            _register(i, 1);
        }
        _expectManagerRevert(abi.encodeWithSelector(Faas.TooManyOperators.selector, 25, 24));
        _request(25);
    }

    function test_only_tangle_may_call_the_hooks() public {
        bytes memory reason = abi.encodeWithSelector(Faas.OnlyTangle.selector, address(this));
        vm.expectRevert(reason);
        faas.onJobCall(0, 0, 0, "");
        vm.expectRevert(reason);
        faas.onJobResult(0, 0, 0, stranger, 0, "");
        vm.expectRevert(reason);
        faas.onRegister(stranger, "");
        vm.expectRevert(reason);
        faas.onUnregister(stranger);
        vm.expectRevert(reason);
        faas.onRequest(0, stranger, new address[](0), "", 0, address(0), 0);
        vm.expectRevert(reason);
        faas.onBlueprintCreated(9, stranger, address(this));
    }

    function test_nobody_else_can_bind_the_manager_to_a_blueprint() public {
        FaaSBlueprint fresh = new FaaSBlueprint(address(tangle), owner);
        bytes memory reason = abi.encodeWithSelector(Faas.WrongOwner.selector, stranger, owner);
        vm.expectRevert(
            abi.encodeWithSelector(DevTangleTypes.ManagerReverted.selector, address(fresh), reason)
        );
        vm.prank(stranger);
        tangle.createBlueprint(_definition(address(fresh), 12));
    }

    function test_manager_binds_once() public {
        _expectManagerRevert(abi.encodeWithSelector(Faas.AlreadyBound.selector, blueprintId));
        vm.prank(owner);
        tangle.createBlueprint(_definition(address(faas), 12));
    }

    function test_ownership_moves_in_two_steps() public {
        vm.prank(owner);
        faas.offerOwnership(user);
        vm.expectRevert(abi.encodeWithSelector(Faas.OnlyNextOwner.selector, stranger));
        vm.prank(stranger);
        faas.takeOwnership();
        vm.prank(user);
        faas.takeOwnership();
        _eq(user, faas.blueprintOwner());
        vm.expectRevert(abi.encodeWithSelector(Faas.OnlyOwner.selector, owner));
        vm.prank(owner);
        faas.setStatusRegistry(address(0));
    }

    function test_slash_is_proposed_by_the_owner_through_the_manager() public {
        uint64 service = _service(1, 4);
        _eq(address(faas), faas.querySlashingOrigin(service));
        vm.recordLogs();
        vm.prank(owner);
        faas.proposeSlash(service, _operator(0), 100, keccak256("evidence"));
        _eq(uint256(uint160(_operator(0))), uint256(_log(DevTangleTypes.SlashProposed.selector).topics[3]));
        vm.expectRevert(abi.encodeWithSelector(Faas.OnlyOwner.selector, stranger));
        vm.prank(stranger);
        faas.proposeSlash(service, _operator(0), 100, keccak256("evidence"));
    }

    function test_loaded_operator_may_not_leave() public {
        uint64 service = _service(1, 4);
        require(faas.canLeave(service, _operator(0)), "idle operator held back");
        _echo(service);
        require(!faas.canLeave(service, _operator(0)), "loaded operator let go");
    }

    function _deadlineOf(uint64 service, uint64 timeoutMs) private returns (uint256) {
        bytes memory inputs =
            abi.encode("", "image", new string[](0), new string[](0), bytes(""), "ephemeral", timeoutMs);
        return faas.getJob(service, _submit(service, EXECUTE_ADVANCED, inputs)).deadline;
    }
}
