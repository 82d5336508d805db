// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title Reading job inputs and result envelopes
/// @notice Both come from strangers and are read in hooks that must not revert on them, so `abi.decode` is no
/// use: every offset is checked by hand, and what does not parse reads as "nothing".
library JobBytes {
    uint256 private constant WORD = 32;
    uint256 private constant ENVELOPE_HEAD = 4 * WORD;

    /// @notice A result, taken apart.
    struct Envelope {
        bool isWellFormed;
        uint8 status;
        bytes32 inputsHash;
        bytes32 resource;
    }

    /// @notice keccak256 of the string that is the first ABI field; zero when it is empty or does not parse.
    function resourceOf(bytes calldata inputs) internal pure returns (bytes32) {
        uint256 size = inputs.length;
        if (size < 2 * WORD) return 0;
        uint256 offset = uint256(bytes32(inputs[:WORD]));
        if (offset > size - WORD) return 0;
        uint256 length = uint256(bytes32(inputs[offset:offset + WORD]));
        if (length == 0 || length > size - WORD - offset) return 0;
        return keccak256(inputs[offset + WORD:offset + WORD + length]);
    }

    /// @notice The `index`th word of the ABI head; zero when the inputs are too short for it.
    function headWord(bytes calldata inputs, uint256 index) internal pure returns (uint256) {
        if (inputs.length < (index + 1) * WORD) return 0;
        return uint256(bytes32(inputs[index * WORD:(index + 1) * WORD]));
    }

    /// @notice Take `abi.encode(uint8 status, bytes32 inputsHash, bytes32 resource, bytes output)` apart, which
    /// may have a fifth field, `bytes receipt`: the operator's signed record, for clients and not read here.
    /// Only the one canonical encoding is well formed, so that equal results have equal hashes.
    function envelopeOf(bytes calldata outputs) internal pure returns (Envelope memory envelope) {
        uint256 size = outputs.length;
        if (size < ENVELOPE_HEAD + WORD || size % WORD != 0) return envelope;
        uint256 status = headWord(outputs, 0);
        if (status > type(uint8).max || _endOfFields(outputs) != size) return envelope;
        envelope.isWellFormed = true;
        envelope.status = uint8(status);
        envelope.inputsHash = bytes32(outputs[WORD:2 * WORD]);
        envelope.resource = bytes32(outputs[2 * WORD:3 * WORD]);
    }

    /// @dev Where the output ends, or the receipt behind it; zero when they are not where they belong.
    function _endOfFields(bytes calldata outputs) private pure returns (uint256) {
        uint256 output = headWord(outputs, 3);
        if (output == ENVELOPE_HEAD) return _endOf(outputs, output);
        if (output != ENVELOPE_HEAD + WORD) return 0;
        uint256 receipt = _endOf(outputs, output);
        if (receipt == 0 || receipt != headWord(outputs, 4) || headWord(outputs, receipt / WORD) == 0) {
            return 0;
        }
        return _endOf(outputs, receipt);
    }

    /// @dev Where the bytes end whose length is at `offset`, a whole word; zero when that is outside.
    function _endOf(bytes calldata outputs, uint256 offset) private pure returns (uint256 end) {
        uint256 size = outputs.length;
        if (offset > size - WORD) return 0;
        uint256 length = headWord(outputs, offset / WORD);
        if (length > size) return 0;
        end = offset + WORD + ((length + WORD - 1) / WORD) * WORD;
        if (end > size) return 0;
    }
}
