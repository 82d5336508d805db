// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {JobBytes} from "../src/JobBytes.sol";
import {vm} from "./Vm.sol";

/// @notice The shared vectors against solc's own encoder and against the contract's reader.
contract VectorsTest {
    string private vectors = vm.readFile("../spec/vectors/jobs.json");

    function _field(uint256 job, string memory name) private view returns (bytes memory) {
        bytes memory digits = job < 10
            ? abi.encodePacked(bytes1(uint8(48 + job)))
            : abi.encodePacked("1", bytes1(uint8(48 + job - 10)));
        return vm.parseJsonBytes(vectors, string(abi.encodePacked(".jobs[", digits, "].", name)));
    }

    function _holds(uint256 job, bytes memory inputs, bytes memory output) private view {
        require(keccak256(inputs) == keccak256(_field(job, "encodedInputs")), "inputs differ from solc's");
        require(keccak256(output) == keccak256(_field(job, "encodedOutput")), "output differs from solc's");
        bytes32 resource = job == 0 ? bytes32(0) : this.resourceOf(inputs);
        require(resource == bytes32(_field(job, "resourceKey")), "another resource than the contract reads");
    }

    function _list(string memory a, string memory b) private pure returns (string[] memory list) {
        list = new string[](2);
        (list[0], list[1]) = (a, b);
    }

    function resourceOf(bytes calldata inputs) external pure returns (bytes32) {
        return JobBytes.resourceOf(inputs);
    }

    function envelopeOf(bytes calldata outputs) external pure returns (JobBytes.Envelope memory) {
        return JobBytes.envelopeOf(outputs);
    }

    function test_executions() public view {
        _holds(
            0,
            abi.encode(
                "alpine:latest", _list("echo", unicode"hällo wörld"), _list("A=1", "B="), hex"0001ff"
            ),
            abi.encode(bytes("hi\n"))
        );
        string[] memory command = new string[](3);
        (command[0], command[1]) = ("python3", "-c");
        bytes memory advanced = abi.encode(
            "", "python:3.11-slim", command, new string[](0), bytes(""), "cached", type(uint64).max
        );
        _holds(1, advanced, abi.encode(hex"deadbeef"));
    }

    function test_snapshots_and_branches() public view {
        _holds(2, abi.encode("ctr-1", "before", ""), abi.encode("snap-1"));
        _holds(3, abi.encode("snap-1"), abi.encode("ctr-2"));
        _holds(4, abi.encode("snap-1", "feature"), abi.encode("branch-1"));
        _holds(5, abi.encode("branch-1", _list("branch-2", "branch-3"), "union"), abi.encode("snap-2"));
    }

    function test_instances() public view {
        bytes memory start = abi.encode("", "alpine:latest", uint32(4), type(uint32).max, uint32(10), true);
        _holds(6, start, abi.encode("inst-1"));
        _holds(7, abi.encode("inst-1"), abi.encode(true));
        _holds(8, abi.encode("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), abi.encode("checkpoint-1"));
        _holds(9, abi.encode("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), abi.encode("inst-1"));
        _holds(
            10, abi.encode("inst-1", uint16(65535), "https", "app"), abi.encode("https://app.example:65535")
        );
        bytes memory archive = new bytes(64);
        for (uint256 i; i < 64; ++i) {
            archive[i] = bytes1(uint8(i));
        }
        _holds(11, abi.encode("inst-1", "/srv/app", archive), abi.encode(type(uint64).max));
    }

    function test_contract_reads_the_envelopes() public view {
        for (uint256 i; i < 6; ++i) {
            string memory path = string(abi.encodePacked(".envelopes[", bytes1(uint8(48 + i)), "]."));
            JobBytes.Envelope memory envelope =
                this.envelopeOf(vm.parseJsonBytes(vectors, string.concat(path, "encoded")));
            require(envelope.isWellFormed, "a good envelope was not read");
            require(
                envelope.status == vm.parseJsonUint(vectors, string.concat(path, "status")), "another status"
            );
            require(
                envelope.inputsHash == bytes32(vm.parseJsonBytes(vectors, string.concat(path, "inputsHash")))
                    && envelope.resource
                        == bytes32(vm.parseJsonBytes(vectors, string.concat(path, "resourceKey"))),
                "another hash or resource"
            );
        }
    }

    function test_contract_refuses_what_is_no_envelope() public view {
        string[9] memory names = [
            "nothing",
            "one byte short",
            "one word long",
            "status 256",
            "offset past the head",
            "length past the end",
            "receipt where the output is",
            "receipt past the end",
            "no receipt in five fields"
        ];
        for (uint256 i; i < names.length; ++i) {
            string memory path = string.concat(".malformedEnvelopes['", names[i], "']");
            require(!this.envelopeOf(vm.parseJsonBytes(vectors, path)).isWellFormed, names[i]);
        }
    }

    function testFuzz_only_the_canonical_encoding_is_an_envelope(
        uint8 status,
        bytes32 inputsHash,
        bytes32 resource,
        bytes calldata output,
        uint256 index,
        bytes1 change
    ) public view {
        bytes memory encoded = abi.encode(status, inputsHash, resource, output);
        require(this.envelopeOf(encoded).isWellFormed, "a canonical envelope was refused");
        index = 96 + index % 64; // the offset and the length
        vm.assume(change != 0);
        encoded[index] ^= change;
        require(!this.envelopeOf(encoded).isWellFormed || index >= 128, "a moved offset was believed");
    }
}
