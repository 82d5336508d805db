// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IFaaSBlueprint as Faas} from "../src/interfaces/IFaaSBlueprint.sol";
import {ChainFixture} from "./ChainFixture.sol";
import {vm, Vm} from "./Vm.sol";

/// @notice Sticky routing: jobs on a resource go to the operator that holds it.
contract ResourcesTest is ChainFixture {
    bytes32 private constant KEY = keccak256("instance-1");
    bytes private stop = abi.encode("instance-1");
    uint64 private service;
    address private holder;

    function setUp() public {
        service = _service(3, 4);
        holder = _make(KEY);
    }

    /// @dev One job whose result binds `resource` to its operator.
    function _make(bytes32 resource) private returns (address operator) {
        uint64 call = _submit(service, START_INSTANCE, ECHO);
        operator = _assignee(service, call);
        _answer(operator, service, call, _result(Faas.Status.Done, ECHO, resource));
    }

    function test_result_binds_its_resource() public view {
        _eq(holder, faas.resourceHolder(service, KEY));
    }

    function test_jobs_on_a_resource_go_to_its_holder() public {
        for (uint256 i; i < 4; ++i) {
            uint64 call = _submit(service, STOP_INSTANCE, stop);
            _eq(holder, _assignee(service, call));
            require(faas.getJob(service, call).sticky, "not sticky");
        }
    }

    function test_holder_of_one_service_holds_nothing_in_another() public {
        uint64 other = _service(3, 4);
        _eq(address(0), faas.resourceHolder(other, KEY));
    }

    function test_plain_execution_has_no_resource() public {
        uint64 call = _submit(service, EXECUTE, stop);
        require(!faas.getJob(service, call).sticky, "job 0 routed by its image name");
    }

    function test_full_holder_pushes_back_though_others_are_free() public {
        for (uint256 i; i < 4; ++i) {
            _submit(service, STOP_INSTANCE, stop);
        }
        _eq(address(0), faas.previewOperator(service, 9, KEY));
        _expectManagerRevert(abi.encodeWithSelector(Faas.HolderUnavailable.selector, service, KEY, holder));
        _submit(service, STOP_INSTANCE, stop);
    }

    function test_sticky_job_cannot_be_passed_on() public {
        uint64 call = _submit(service, STOP_INSTANCE, stop);
        vm.expectRevert(abi.encodeWithSelector(Faas.JobIsSticky.selector, service, call));
        vm.prank(holder);
        faas.reassign(service, call);
    }

    function test_failed_job_binds_nothing() public {
        uint64 call = _submit(service, START_INSTANCE, ECHO);
        _answer(_assignee(service, call), service, call, _result(Faas.Status.Failed, ECHO, keccak256("b")));
        _eq(address(0), faas.resourceHolder(service, keccak256("b")));
    }

    function test_resource_cannot_be_taken_from_its_holder() public {
        uint64 call = _submit(service, START_INSTANCE, ECHO);
        address taker = _assignee(service, call);
        require(taker != holder, "the test needs another operator");
        vm.recordLogs();
        _answer(taker, service, call, _result(Faas.Status.Done, ECHO, KEY));
        _eq(holder, abi.decode(_log(Faas.ResourceContested.selector).data, (address)));
        _eq(holder, faas.resourceHolder(service, KEY));
    }

    function test_holder_may_let_go() public {
        vm.prank(holder);
        faas.releaseResource(service, KEY);
        _eq(address(0), faas.resourceHolder(service, KEY));
        require(!faas.getJob(service, _submit(service, STOP_INSTANCE, stop)).sticky, "still sticky");
    }

    function test_stranger_may_not_release_what_is_served() public {
        vm.expectRevert(abi.encodeWithSelector(Faas.NotHolder.selector, stranger, holder));
        vm.prank(stranger);
        faas.releaseResource(service, KEY);
    }

    function test_resource_of_a_gone_holder_refuses_jobs_until_anybody_releases_it() public {
        tangle.forceRemoveOperator(service, holder);
        _expectManagerRevert(abi.encodeWithSelector(Faas.HolderUnavailable.selector, service, KEY, holder));
        _submit(service, STOP_INSTANCE, stop);
        vm.prank(stranger);
        faas.releaseResource(service, KEY);
        require(_assignee(service, _submit(service, STOP_INSTANCE, stop)) != holder, "sent to the gone");
    }

    function test_nothing_cannot_be_released() public {
        vm.expectRevert(abi.encodeWithSelector(Faas.NotHolder.selector, stranger, address(0)));
        vm.prank(stranger);
        faas.releaseResource(service, keccak256("unknown"));
    }

    function testFuzz_first_string_names_the_resource(string calldata name, bytes calldata rest) public {
        vm.assume(bytes(name).length != 0);
        address maker = _make(keccak256(bytes(name)));
        bytes32 key = keccak256(bytes(name));
        _eq(key == KEY ? holder : maker, faas.resourceHolder(service, key));
        uint64 call = _submit(service, STOP_INSTANCE, abi.encode(name, rest));
        require(faas.getJob(service, call).sticky, "the name was not read");
    }

    function testFuzz_inputs_that_do_not_decode_are_still_assigned(bytes calldata inputs, uint8 job) public {
        uint64 call = _submit(service, job % 12, inputs);
        _eq(Faas.Status.Pending, _status(service, call));
    }
}
