// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IFaaSBlueprint as Faas} from "../src/interfaces/IFaaSBlueprint.sol";
import {ChainFixture} from "./ChainFixture.sol";
import {vm} from "./Vm.sol";

/// @notice What users and operators pay. Whole-transaction costs: the call on cold state plus the base 21 000
/// and the calldata. The snapshot keeps the numbers, the limits here are promises.
contract GasTest is ChainFixture {
    uint256 private constant BASE = 21_000;
    uint256 private constant HOOK_LIMIT = 500_000;

    function _cost(address caller, bytes memory data) private returns (uint256 gas) {
        vm.cool(address(tangle));
        vm.cool(address(faas));
        vm.prank(caller);
        gas = gasleft();
        (bool isDone,) = address(tangle).call(data);
        gas = gas - gasleft() + BASE;
        require(isDone, "the call failed");
        for (uint256 i; i < data.length; ++i) {
            gas += data[i] == 0 ? 4 : 16;
        }
    }

    function _submitCost(uint256 operators) private returns (uint256) {
        uint64 service = _service(operators, 8);
        bytes memory inputs = abi.encode("alpine:latest", new string[](2), new string[](0), bytes("payload"));
        return _cost(user, abi.encodeCall(tangle.submitJob, (service, EXECUTE, inputs)));
    }

    function _keep(string memory name, uint256 gas, uint256 limit) private {
        require(gas <= limit, "more gas than promised");
        vm.snapshotValue("gas", name, gas);
    }

    function test_submit_with_2_operators() public {
        _keep("submitJob, 2 operators", _submitCost(2), 300_000);
    }

    function test_submit_with_16_operators() public {
        _keep("submitJob, 16 operators", _submitCost(16), 400_000);
    }

    function test_submit_with_24_operators() public {
        _keep("submitJob, 24 operators", _submitCost(24), HOOK_LIMIT);
    }

    function test_result() public {
        uint64 service = _service(2, 8);
        uint64 call = _echo(service);
        address operator = _assignee(service, call);
        _keep(
            "submitResult",
            _cost(operator, abi.encodeCall(tangle.submitResult, (service, call, _done()))),
            250_000
        );
    }

    function test_50_results_in_one_transaction() public {
        uint64 service = _service(1, 64);
        uint64[] memory calls = new uint64[](50);
        bytes[] memory results = new bytes[](50);
        for (uint256 i; i < 50; ++i) {
            calls[i] = _echo(service);
            results[i] = _done();
        }
        uint256 gas = _cost(_operator(0), abi.encodeCall(tangle.submitResults, (service, calls, results)));
        _keep("submitResults, each of 50", gas / 50, 115_000);
    }

    function test_result_that_binds_a_resource() public {
        uint64 service = _service(2, 8);
        uint64 call = _submit(service, START_INSTANCE, ECHO);
        bytes memory result = _result(Faas.Status.Done, ECHO, keccak256("instance"));
        address operator = _assignee(service, call);
        _keep(
            "submitResult binding a resource",
            _cost(operator, abi.encodeCall(tangle.submitResult, (service, call, result))),
            280_000
        );
    }
}
