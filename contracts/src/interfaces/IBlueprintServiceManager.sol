// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title What Tangle calls on a blueprint's manager
/// @notice The 37 functions of ABI 0.19, declared by us from their selectors; `Selectors.t.sol` holds them.
/// @dev Tangle gives each call a gas cap. A revert undoes the caller's transaction only in
/// `onBlueprintCreated`, `onRegister`, `onRequest` and `onJobCall`; in every other hook it is swallowed.
interface IBlueprintServiceManager {
    /// @notice One published version of a blueprint's binary.
    struct BinaryVersion {
        uint64 versionId;
        uint64 publishedAt;
        bool deprecated;
        bytes32 sha256Hash;
        bytes32 attestationHash;
    }

    function onBlueprintCreated(uint64 blueprintId, address owner, address tangleCore) external;

    function onRegister(address operator, bytes calldata registrationInputs) external payable;
    function onUnregister(address operator) external;
    function onUpdatePreferences(address operator, bytes calldata newPreferences) external payable;

    function onRequest(
        uint64 requestId,
        address requester,
        address[] calldata operators,
        bytes calldata requestInputs,
        uint64 ttl,
        address paymentAsset,
        uint256 paymentAmount
    ) external payable;
    function onApprove(address operator, uint64 requestId, uint8 stakingPercent) external payable;
    function onReject(address operator, uint64 requestId) external;
    function onServiceInitialized(
        uint64 blueprintId,
        uint64 requestId,
        uint64 serviceId,
        address owner,
        address[] calldata permittedCallers,
        uint64 ttl
    ) external;
    function onServiceTermination(uint64 serviceId, address owner) external;

    function canJoin(uint64 serviceId, address operator) external view returns (bool);
    function onOperatorJoined(uint64 serviceId, address operator, uint16 exposureBps) external;
    function canLeave(uint64 serviceId, address operator) external view returns (bool);
    function onOperatorLeft(uint64 serviceId, address operator) external;
    function onExitScheduled(uint64 serviceId, address operator, uint64 executeAfter) external;
    function onExitCanceled(uint64 serviceId, address operator) external;

    function onJobCall(uint64 serviceId, uint8 job, uint64 callId, bytes calldata inputs) external payable;
    function onJobResult(
        uint64 serviceId,
        uint8 job,
        uint64 callId,
        address operator,
        bytes32 inputsHash,
        bytes calldata outputs
    ) external payable;
    function getRequiredResultCount(uint64 serviceId, uint8 job) external view returns (uint32);

    function requiresAggregation(uint64 serviceId, uint8 job) external view returns (bool);
    function getAggregationThreshold(uint64 serviceId, uint8 job)
        external
        view
        returns (uint16 thresholdBps, uint8 thresholdType);
    function onAggregatedResult(
        uint64 serviceId,
        uint8 job,
        uint64 callId,
        bytes calldata output,
        uint256 signerBitmap,
        uint256[2] calldata aggregatedSignature,
        uint256[4] calldata aggregatedPubkey
    ) external;

    function onUnappliedSlash(uint64 serviceId, bytes calldata offender, uint8 slashPercent) external;
    function onSlash(uint64 serviceId, bytes calldata offender, uint8 slashPercent) external;
    function querySlashingOrigin(uint64 serviceId) external view returns (address);
    function queryDisputeOrigin(uint64 serviceId) external view returns (address);
    function getSlashingWindow(uint64 serviceId) external view returns (bool useDefault, uint64 window);

    function queryDeveloperPaymentAddress(uint64 serviceId) external view returns (address payable);
    function queryIsPaymentAssetAllowed(uint64 serviceId, address asset) external view returns (bool);
    function getMinOperatorStake() external view returns (bool useDefault, uint256 minStake);
    function computeBillAdjustmentBps(uint64 serviceId, uint64 periodStart, uint64 periodEnd)
        external
        view
        returns (uint16);

    function getHeartbeatInterval(uint64 serviceId) external view returns (bool useDefault, uint64 interval);
    function getHeartbeatThreshold(uint64 serviceId) external view returns (bool useDefault, uint8 threshold);
    function getExitConfig(uint64 serviceId)
        external
        view
        returns (bool useDefault, uint64 minCommitment, uint64 exitQueue, bool forceExitAllowed);
    function getNonPaymentTerminationPolicy(uint64 serviceId)
        external
        view
        returns (bool useDefault, uint64 graceIntervals);
    function forceRemoveAllowsBelowMin(uint64 serviceId) external view returns (bool);

    function onBinaryVersionPublished(
        uint64 blueprintId,
        BinaryVersion calldata version,
        string calldata binaryUri
    ) external;
    function onOperatorBinaryAcked(uint64 serviceId, uint64 versionId, address operator) external;
}
