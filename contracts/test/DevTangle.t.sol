// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {FaaSBlueprint} from "../src/FaaSBlueprint.sol";
import {DevStaking} from "../src/dev/DevStaking.sol";
import {DevTangle} from "../src/dev/DevTangle.sol";
import {DevTangleTypes as Types} from "../src/dev/DevTangleTypes.sol";
import {IFaaSBlueprint as Faas} from "../src/interfaces/IFaaSBlueprint.sol";
import {ChainFixture} from "./ChainFixture.sol";
import {vm, Vm} from "./Vm.sol";

/// @notice The rules of the protocol that our development chain repeats, and quoted jobs on top of them.
contract DevTangleTest is ChainFixture {
    uint64 private service;

    function setUp() public {
        service = _service(3, 4);
    }

    function _quote(uint256 index, uint256 price, bytes memory inputs)
        private
        view
        returns (Types.SignedJobQuote memory quote)
    {
        quote.operator = _operator(index);
        quote.details = Types.JobQuoteDetails({
            requester: user,
            serviceId: service,
            jobIndex: EXECUTE,
            price: price,
            timestamp: uint64(block.timestamp),
            expiry: uint64(block.timestamp + 5 minutes),
            confidentiality: 0,
            inputsHash: keccak256(inputs)
        });
        bytes32 domain = keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256("TangleQuote"),
                keccak256("1"),
                block.chainid,
                address(tangle)
            )
        );
        bytes32 detailsType = keccak256(
            "JobQuoteDetails(address requester,uint64 serviceId,uint8 jobIndex,uint256 price,uint64 timestamp,uint64 expiry,uint8 confidentiality,bytes32 inputsHash)"
        );
        bytes32 digest = keccak256(
            abi.encodePacked("\x19\x01", domain, keccak256(abi.encode(detailsType, quote.details)))
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_operatorKey(index), digest);
        quote.signature = abi.encodePacked(r, s, v);
    }

    function _submitQuoted(Types.SignedJobQuote[] memory quotes, uint256 value) private returns (uint64) {
        vm.deal(user, value);
        vm.prank(user);
        return tangle.submitJobFromQuote{value: value}(service, EXECUTE, ECHO, quotes);
    }

    function _one(Types.SignedJobQuote memory quote)
        private
        pure
        returns (Types.SignedJobQuote[] memory quotes)
    {
        quotes = new Types.SignedJobQuote[](1);
        quotes[0] = quote;
    }

    function test_quoted_operator_is_the_assignee() public {
        uint64 call = _submitQuoted(_one(_quote(1, 100, ECHO)), 100);
        _eq(_operator(1), _assignee(service, call));
        _answer(_operator(1), service, call, _done());
        require(_isCompleted(service, call), "not completed");
    }

    function test_quote_binds_even_a_full_or_draining_operator() public {
        vm.prank(_operator(1));
        faas.setCapacity(1, true);
        _eq(_operator(1), _assignee(service, _submitQuoted(_one(_quote(1, 100, ECHO)), 100)));
        _eq(_operator(1), _assignee(service, _submitQuoted(_one(_quote(1, 101, ECHO)), 101)));
        _eq(2, _load(_operator(1)));
    }

    function test_least_loaded_of_several_quoted_operators_is_chosen_and_the_other_is_its_stand_in() public {
        Types.SignedJobQuote[] memory quotes = new Types.SignedJobQuote[](2);
        (quotes[0], quotes[1]) = (_quote(0, 100, ECHO), _quote(2, 200, ECHO));
        _submitQuoted(_one(_quote(0, 300, ECHO)), 300);
        uint64 call = _submitQuoted(quotes, 300);
        _eq(_operator(2), _assignee(service, call));
        vm.prank(_operator(2));
        _eq(_operator(0), faas.reassign(service, call));
    }

    function test_job_is_never_passed_on_outside_its_quotes() public {
        uint64 call = _submitQuoted(_one(_quote(1, 100, ECHO)), 100);
        _pastDeadline(service, call);
        vm.expectRevert(abi.encodeWithSelector(Faas.NoOperatorFree.selector, service));
        faas.reassign(service, call);
        vm.expectRevert(abi.encodeWithSelector(Types.NotQuotedOperator.selector, service, call));
        _answer(_operator(0), service, call, _timedOut());
        vm.warp(block.timestamp + 1 hours);
        faas.expire(service, call);
        _eq(0, _load(_operator(1)));
    }

    function test_quote_is_good_once_for_its_requester_and_inputs() public {
        Types.SignedJobQuote[] memory quotes = _one(_quote(1, 0, ECHO));
        _submitQuoted(quotes, 0);
        vm.expectRevert(abi.encodeWithSelector(Types.QuoteAlreadyUsed.selector, _operator(1)));
        _submitQuoted(quotes, 0);
        bytes memory reason = abi.encodeWithSelector(
            Types.JobQuoteInputsMismatch.selector, _operator(1), keccak256(ECHO), keccak256("x")
        );
        quotes = _one(_quote(1, 0, "x"));
        vm.expectRevert(reason);
        _submitQuoted(quotes, 0);
        quotes = _one(_quote(1, 0, ECHO));
        quotes[0].details.price = 1;
        vm.expectRevert(abi.encodeWithSelector(Types.InvalidQuoteSignature.selector, _operator(1)));
        _submitQuoted(quotes, 1);
    }

    function test_key_with_proof_is_taken_and_a_forged_proof_refused() public {
        bytes memory key = hex"04" hex"79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
            hex"483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"; // of the private key 1
        bytes32 proven = keccak256(
            abi.encode(
                keccak256("TangleOperatorKeyProof"),
                block.chainid,
                address(tangle),
                blueprintId,
                _operator(7),
                keccak256(key)
            )
        );
        bytes32 digest = keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", proven));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(2, digest);
        vm.expectRevert(abi.encodeWithSelector(Types.InvalidOperatorKey.selector));
        vm.prank(_operator(7));
        tangle.registerOperator(blueprintId, abi.encodePacked(key, r, s, v), "http://127.0.0.1");
        (v, r, s) = vm.sign(1, digest);
        vm.prank(_operator(7));
        tangle.registerOperator(blueprintId, abi.encodePacked(key, r, s, v), "http://127.0.0.1");
        require(
            keccak256(tangle.getOperatorPublicKey(blueprintId, _operator(7))) == keccak256(key), "another key"
        );
    }

    function test_call_ids_count_per_service_from_zero() public {
        uint64 other = _service(2, 4);
        _eq(0, _echo(service));
        _eq(1, _echo(service));
        _eq(0, _echo(other));
    }

    function test_job_index_is_not_an_indexed_field() public {
        vm.recordLogs();
        _echo(service);
        Vm.Log memory log = _log(Types.JobSubmitted.selector);
        _eq(3, log.topics.length);
        (uint8 job, address caller, bytes memory inputs) = abi.decode(log.data, (uint8, address, bytes));
        _eq(EXECUTE, job);
        _eq(user, caller);
        require(keccak256(inputs) == keccak256(ECHO), "other inputs");
    }

    function test_unknown_call_reads_as_zeros() public view {
        Types.JobCall memory call = tangle.getJobCall(service, 77);
        _eq(address(0), call.caller);
        require(!call.completed, "completed");
    }

    function test_submission_rules() public {
        vm.expectRevert(abi.encodeWithSelector(Types.NotPermittedCaller.selector, service, stranger));
        vm.prank(stranger);
        tangle.submitJob(service, EXECUTE, ECHO);
        vm.expectRevert(abi.encodeWithSelector(Types.InvalidJobIndex.selector, 12));
        _submit(service, 12, ECHO);
        vm.deal(user, 5);
        vm.expectRevert(abi.encodeWithSelector(Types.InvalidMsgValue.selector, 0, 5));
        vm.prank(user);
        tangle.submitJob{value: 5}(service, EXECUTE, ECHO);
        vm.prank(user);
        tangle.terminateService(service);
        vm.expectRevert(abi.encodeWithSelector(Types.ServiceNotActive.selector, service));
        _echo(service);
    }

    function test_result_rules() public {
        uint64 call = _echo(service);
        vm.expectRevert(abi.encodeWithSelector(Types.OperatorNotInService.selector, service, stranger));
        _answer(stranger, service, call, _done());
        address rival = _other(_assignee(service, call));
        _answer(rival, service, call, _done());
        vm.expectRevert(abi.encodeWithSelector(Types.ResultAlreadySubmitted.selector, service, call, rival));
        _answer(rival, service, call, _done());
    }

    function test_one_bad_entry_reverts_a_batch() public {
        uint64 call = _echo(service);
        address operator = _assignee(service, call);
        uint64[] memory calls = new uint64[](2);
        bytes[] memory results = new bytes[](2);
        (calls[0], calls[1]) = (call, 99);
        (results[0], results[1]) = (_done(), _done());
        vm.expectRevert(abi.encodeWithSelector(Types.JobCallNotFound.selector, service, 99));
        vm.prank(operator);
        tangle.submitResults(service, calls, results);
        _eq(Faas.Status.Pending, _status(service, call));
    }

    function test_unstaked_operator_is_not_active() public {
        DevStaking staking = new DevStaking();
        DevTangle staked = new DevTangle(address(staking));
        FaaSBlueprint manager = new FaaSBlueprint(address(staked), owner);
        vm.prank(owner);
        uint64 id = staked.createBlueprint(_definition(address(manager), 12));
        bytes memory key = abi.encodePacked(uint8(4), keccak256("x"), keccak256("y"));
        vm.expectRevert(abi.encodeWithSelector(Types.OperatorNotActive.selector, _operator(0)));
        vm.prank(_operator(0));
        staked.registerOperator(id, key, "http://127.0.0.1");
        vm.deal(_operator(0), 1 ether);
        vm.prank(_operator(0));
        staking.registerOperator{value: 1 ether}();
        vm.prank(_operator(0));
        staked.registerOperator(id, key, "http://127.0.0.1");
        require(staked.isOperatorRegistered(id, _operator(0)), "not registered");
    }

    function test_operator_joins_and_leaves_only_as_the_manager_allows() public {
        _register(9, 4);
        vm.prank(_operator(9));
        tangle.joinService(service, 1000);
        _eq(4, tangle.getService(service).operatorCount);
        vm.prank(_operator(9));
        tangle.leaveService(service);
        uint64 call = _echo(service);
        address loaded = _assignee(service, call);
        vm.expectRevert(abi.encodeWithSelector(Types.ManagerRejected.selector, address(faas)));
        vm.prank(loaded);
        tangle.leaveService(service);
    }
}
