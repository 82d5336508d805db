// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IBlueprintServiceManager as Manager} from "../interfaces/IBlueprintServiceManager.sol";
import {DevManagerCaller} from "./DevManagerCaller.sol";
import {DevStaking} from "./DevStaking.sol";

/// @title Blueprints and their operators, as Tangle keeps them
abstract contract DevBlueprints is DevManagerCaller {
    uint256 private constant KEY_SIZE = 65;
    uint256 private constant PROOF_SIZE = 65;
    bytes32 private constant KEY_PROOF_TAG = keccak256("TangleOperatorKeyProof");

    struct Blueprint {
        address owner;
        address manager;
        uint8 jobCount;
        BlueprintConfig config;
    }

    /// @notice Zero: every operator counts as staked.
    DevStaking public immutable STAKING;
    uint64 public blueprintCount;

    mapping(uint64 blueprintId => Blueprint) internal _blueprints;
    mapping(uint64 blueprintId => mapping(address operator => bytes)) private _publicKeys;
    mapping(uint64 blueprintId => mapping(bytes32 keyHash => address)) private _keyOwners;
    mapping(uint64 blueprintId => mapping(address operator => uint256)) internal _activeServices;

    constructor(address staking) {
        STAKING = DevStaking(staking);
    }

    function createBlueprint(BlueprintDefinition calldata definition) external returns (uint64 blueprintId) {
        _checkDefinition(definition);
        blueprintId = blueprintCount++;
        Blueprint storage created = _blueprints[blueprintId];
        created.owner = msg.sender;
        created.manager = definition.manager;
        created.jobCount = uint8(definition.jobs.length);
        created.config = definition.config;
        emit BlueprintCreated(
            blueprintId, msg.sender, definition.manager, definition.metadataUri, definition.metadataHash
        );
        _mustCall(
            definition.manager,
            abi.encodeCall(Manager.onBlueprintCreated, (blueprintId, msg.sender, address(this)))
        );
    }

    function preRegister(uint64 blueprintId) external {
        _blueprint(blueprintId);
        _requireStaked(msg.sender);
        emit OperatorPreRegistered(blueprintId, msg.sender);
    }

    function registerOperator(uint64 blueprintId, bytes calldata publicKey, string calldata rpcAddress)
        external
    {
        _register(blueprintId, publicKey, rpcAddress, "");
    }

    function registerOperator(
        uint64 blueprintId,
        bytes calldata publicKey,
        string calldata rpcAddress,
        bytes calldata inputs
    ) external {
        _register(blueprintId, publicKey, rpcAddress, inputs);
    }

    function unregisterOperator(uint64 blueprintId) external {
        Blueprint storage blueprint = _registered(blueprintId);
        if (_activeServices[blueprintId][msg.sender] != 0) {
            revert OperatorHasActiveServices(blueprintId, msg.sender);
        }
        _tryCall(blueprint.manager, abi.encodeCall(Manager.onUnregister, (msg.sender)));
        delete _keyOwners[blueprintId][keccak256(_publicKeys[blueprintId][msg.sender])];
        delete _publicKeys[blueprintId][msg.sender];
        emit OperatorUnregistered(blueprintId, msg.sender);
    }

    function updateOperatorPreferences(
        uint64 blueprintId,
        bytes calldata publicKey,
        string calldata rpcAddress
    ) external {
        Blueprint storage blueprint = _registered(blueprintId);
        if (bytes(rpcAddress).length == 0) revert OperatorRpcAddressRequired();
        if (publicKey.length != 0) {
            delete _keyOwners[blueprintId][keccak256(_publicKeys[blueprintId][msg.sender])];
            _takeKey(blueprintId, publicKey);
        }
        bytes memory key = _publicKeys[blueprintId][msg.sender];
        _tryCall(
            blueprint.manager,
            abi.encodeCall(
                Manager.onUpdatePreferences, (msg.sender, abi.encode(OperatorPreferences(key, rpcAddress)))
            )
        );
        emit OperatorPreferencesUpdated(blueprintId, msg.sender, key, rpcAddress);
    }

    function isOperatorRegistered(uint64 blueprintId, address operator) public view returns (bool) {
        return _publicKeys[blueprintId][operator].length != 0;
    }

    function getOperatorPublicKey(uint64 blueprintId, address operator) external view returns (bytes memory) {
        return _publicKeys[blueprintId][operator];
    }

    /// @notice The RPC address is never stored; it stands in `OperatorRegistered` alone.
    function getOperatorPreferences(uint64 blueprintId, address operator)
        external
        view
        returns (OperatorPreferences memory)
    {
        return OperatorPreferences(_publicKeys[blueprintId][operator], "");
    }

    function getBlueprintConfig(uint64 blueprintId) external view returns (BlueprintConfig memory) {
        return _blueprints[blueprintId].config;
    }

    function _blueprint(uint64 blueprintId) internal view returns (Blueprint storage blueprint) {
        blueprint = _blueprints[blueprintId];
        if (blueprint.owner == address(0)) revert BlueprintNotFound(blueprintId);
    }

    function _requireStaked(address operator) internal view {
        if (address(STAKING) != address(0) && !STAKING.isOperatorActive(operator)) {
            revert OperatorNotActive(operator);
        }
    }

    function _registered(uint64 blueprintId) private view returns (Blueprint storage) {
        if (!isOperatorRegistered(blueprintId, msg.sender)) {
            revert OperatorNotRegistered(blueprintId, msg.sender);
        }
        return _blueprint(blueprintId);
    }

    function _register(
        uint64 blueprintId,
        bytes calldata publicKey,
        string calldata rpcAddress,
        bytes memory inputs
    ) private {
        Blueprint storage blueprint = _blueprint(blueprintId);
        _requireStaked(msg.sender);
        if (isOperatorRegistered(blueprintId, msg.sender)) {
            revert OperatorAlreadyRegistered(blueprintId, msg.sender);
        }
        bytes memory key = _takeKey(blueprintId, publicKey);
        // Without inputs the manager gets the encoded preferences in their place.
        if (inputs.length == 0) inputs = abi.encode(OperatorPreferences(key, rpcAddress));
        _mustCall(blueprint.manager, abi.encodeCall(Manager.onRegister, (msg.sender, inputs)));
        emit OperatorRegistered(blueprintId, msg.sender, key, rpcAddress);
    }

    /// @dev 65 bytes of key, or key and proof that its owner stands behind this registration.
    function _takeKey(uint64 blueprintId, bytes calldata given) private returns (bytes memory key) {
        bool hasProof = given.length == KEY_SIZE + PROOF_SIZE;
        if (!(hasProof || given.length == KEY_SIZE) || given[0] != 0x04) revert InvalidOperatorKey();
        key = given[:KEY_SIZE];
        bytes32 keyHash = keccak256(key);
        if (hasProof) {
            bytes32 proven = keccak256(
                abi.encode(KEY_PROOF_TAG, block.chainid, address(this), blueprintId, msg.sender, keyHash)
            );
            bytes32 digest = keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", proven));
            address keyAddress = address(uint160(uint256(keccak256(given[1:KEY_SIZE]))));
            if (_signer(digest, given[KEY_SIZE:]) != keyAddress) revert InvalidOperatorKey();
        }
        if (_keyOwners[blueprintId][keyHash] != address(0)) {
            revert DuplicateOperatorKey(blueprintId, keyHash);
        }
        _keyOwners[blueprintId][keyHash] = msg.sender;
        _publicKeys[blueprintId][msg.sender] = key;
    }

    function _signer(bytes32 digest, bytes calldata signature) internal pure returns (address) {
        if (signature.length != PROOF_SIZE) return address(0);
        return ecrecover(digest, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
    }

    function _checkDefinition(BlueprintDefinition calldata definition) private pure {
        if (bytes(definition.metadataUri).length == 0) revert BlueprintMetadataRequired();
        if (definition.metadataHash == 0) revert BlueprintMetadataHashRequired();
        if (definition.jobs.length == 0 || definition.jobs.length > type(uint8).max) {
            revert InvalidJobIndex(0);
        }
        if (definition.supportedMemberships.length == 0) revert BlueprintMembershipRequired();
        if (definition.sources.length == 0) revert BlueprintSourcesRequired();
        for (uint256 i; i < definition.sources.length; ++i) {
            BlueprintBinary[] calldata binaries = definition.sources[i].binaries;
            if (binaries.length == 0) revert BlueprintBinaryRequired();
            for (uint256 j; j < binaries.length; ++j) {
                if (binaries[j].sha256Hash == 0) revert BlueprintBinaryHashRequired();
            }
        }
    }
}
