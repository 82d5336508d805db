// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title Tangle's structs, events and errors (ABI 0.19), declared by us
/// @notice Field order is the ABI; `Selectors.t.sol` holds every selector and topic.
interface DevTangleTypes {
    struct BlueprintConfig {
        uint8 membership;
        uint8 pricing;
        uint32 minOperators;
        uint32 maxOperators;
        uint256 subscriptionRate;
        uint64 subscriptionInterval;
        uint256 eventRate;
    }

    struct BlueprintMetadata {
        string name;
        string description;
        string author;
        string category;
        string codeRepository;
        string logo;
        string website;
        string license;
        string profilingData;
    }

    struct JobDefinition {
        string name;
        string description;
        string metadataUri;
        bytes paramsSchema;
        bytes resultSchema;
    }

    struct ImageSource {
        string registry;
        string image;
        string tag;
    }

    struct WasmSource {
        uint8 runtime;
        uint8 fetcher;
        string artifactUri;
        string entrypoint;
    }

    struct NativeSource {
        uint8 fetcher;
        string artifactUri;
        string entrypoint;
    }

    struct TestingSource {
        string cargoPackage;
        string cargoBin;
        string basePath;
    }

    struct BlueprintBinary {
        uint8 arch;
        uint8 os;
        string name;
        bytes32 sha256Hash;
    }

    struct BlueprintSource {
        uint8 kind;
        ImageSource container;
        WasmSource wasm;
        NativeSource native;
        TestingSource testing;
        BlueprintBinary[] binaries;
    }

    struct BlueprintDefinition {
        string metadataUri;
        bytes32 metadataHash;
        address manager;
        uint32 masterManagerRevision;
        bool hasConfig;
        BlueprintConfig config;
        BlueprintMetadata metadata;
        JobDefinition[] jobs;
        bytes registrationSchema;
        bytes requestSchema;
        BlueprintSource[] sources;
        uint8[] supportedMemberships;
    }

    struct OperatorPreferences {
        bytes ecdsaPublicKey;
        string rpcAddress;
    }

    struct Asset {
        uint8 kind;
        address token;
    }

    struct SecurityCommitment {
        Asset asset;
        uint16 exposureBps;
    }

    struct TeeCommitment {
        uint8 kind;
        bytes32 measurement;
        bytes32 nonce;
        uint64 expiry;
    }

    struct Approval {
        uint64 requestId;
        SecurityCommitment[] securityCommitments;
        uint256[4] blsPubkey;
        uint256[2] blsPopSignature;
        TeeCommitment[] teeCommitments;
    }

    struct Service {
        uint64 blueprintId;
        address owner;
        uint64 createdAt;
        uint64 ttl;
        uint64 terminatedAt;
        uint64 lastPaymentAt;
        uint32 operatorCount;
        uint32 minOperators;
        uint32 maxOperators;
        uint8 membership;
        uint8 pricing;
        uint8 status;
        uint8 confidentiality;
    }

    struct JobCall {
        uint8 jobIndex;
        address caller;
        uint64 createdAt;
        uint32 resultCount;
        bool completed;
        bool isRFQ;
        uint256 payment;
    }

    struct JobQuoteDetails {
        address requester;
        uint64 serviceId;
        uint8 jobIndex;
        uint256 price;
        uint64 timestamp;
        uint64 expiry;
        uint8 confidentiality;
        bytes32 inputsHash;
    }

    struct SignedJobQuote {
        JobQuoteDetails details;
        bytes signature;
        address operator;
    }

    event BlueprintCreated(
        uint64 indexed blueprintId,
        address indexed owner,
        address manager,
        string metadataUri,
        bytes32 metadataHash
    );
    event OperatorPreRegistered(uint64 indexed blueprintId, address indexed operator);
    event OperatorRegistered(
        uint64 indexed blueprintId, address indexed operator, bytes ecdsaPublicKey, string rpcAddress
    );
    event OperatorUnregistered(uint64 indexed blueprintId, address indexed operator);
    event OperatorPreferencesUpdated(
        uint64 indexed blueprintId, address indexed operator, bytes ecdsaPublicKey, string rpcAddress
    );
    event ServiceRequested(
        uint64 indexed requestId, uint64 indexed blueprintId, address indexed requester, uint8 confidentiality
    );
    event ServiceApproved(uint64 indexed requestId, address indexed operator);
    event ServiceRejected(uint64 indexed requestId, address indexed operator);
    event ServiceActivated(
        uint64 indexed serviceId, uint64 indexed requestId, uint64 indexed blueprintId, uint8 confidentiality
    );
    event ServiceTerminated(uint64 indexed serviceId);
    event JobSubmitted(
        uint64 indexed serviceId, uint64 indexed callId, uint8 jobIndex, address caller, bytes inputs
    );
    event JobSubmittedFromQuote(
        uint64 indexed serviceId,
        uint64 indexed callId,
        uint8 jobIndex,
        address caller,
        address[] quotedOperators,
        uint256 totalPrice,
        bytes inputs
    );
    event JobResultSubmitted(
        uint64 indexed serviceId, uint64 indexed callId, address indexed operator, bytes result
    );
    event JobCompleted(uint64 indexed serviceId, uint64 indexed callId);
    event ManagerHookFailed(address indexed manager, bytes4 indexed selector, bytes reason);
    event SlashProposed(
        uint64 indexed slashId,
        uint64 indexed serviceId,
        address indexed operator,
        address proposer,
        uint16 slashBps,
        uint16 effectiveSlashBps,
        bytes32 evidence,
        uint64 executeAfter
    );

    error Unauthorized();
    error LengthMismatch();
    error BlueprintNotFound(uint64 blueprintId);
    error NotBlueprintOwner(uint64 blueprintId, address caller);
    error BlueprintMetadataRequired();
    error BlueprintMetadataHashRequired();
    error BlueprintMembershipRequired();
    error BlueprintSourcesRequired();
    error BlueprintBinaryRequired();
    error BlueprintBinaryHashRequired();
    error OperatorNotRegistered(uint64 blueprintId, address operator);
    error OperatorAlreadyRegistered(uint64 blueprintId, address operator);
    error OperatorRpcAddressRequired();
    error OperatorNotActive(address operator);
    error InvalidOperatorKey();
    error DuplicateOperatorKey(uint64 blueprintId, bytes32 keyHash);
    error OperatorHasActiveServices(uint64 blueprintId, address operator);
    error ServiceRequestNotFound(uint64 requestId);
    error ServiceRequestAlreadyProcessed(uint64 requestId);
    error ServiceRequestExpiredError(uint64 requestId);
    error AlreadyApproved(uint64 requestId, address operator);
    error NoOperators();
    error InsufficientOperators(uint32 required, uint32 provided);
    error TooManyOperators(uint32 maximum, uint32 provided);
    error TTLBelowMinimum(uint64 ttl, uint64 minimum);
    error TTLAboveMaximum(uint64 ttl, uint64 maximum);
    error ServiceNotFound(uint64 serviceId);
    error ServiceNotActive(uint64 serviceId);
    error ServiceExpired(uint64 serviceId);
    error NotServiceOwner(uint64 serviceId, address caller);
    error NotPermittedCaller(uint64 serviceId, address caller);
    error OperatorNotInService(uint64 serviceId, address operator);
    error InvalidJobIndex(uint8 jobIndex);
    error JobCallNotFound(uint64 serviceId, uint64 callId);
    error JobAlreadyCompleted(uint64 serviceId, uint64 callId);
    error ResultAlreadySubmitted(uint64 serviceId, uint64 callId, address operator);
    error NotQuotedOperator(uint64 serviceId, uint64 callId);
    error AggregationRequired(uint64 serviceId, uint8 jobIndex);
    error InvalidMsgValue(uint256 expected, uint256 sent);
    error ManagerReverted(address manager, bytes reason);
    error ManagerRejected(address manager);
    error NoQuotes();
    error JobQuoteServiceMismatch(uint64 expected, uint64 quoted);
    error JobQuoteJobIndexMismatch(uint8 expected, uint8 quoted);
    error JobQuoteRequesterMismatch(address operator, address expected, address actual);
    error JobQuoteInputsMismatch(address operator, bytes32 expected, bytes32 actual);
    error DuplicateOperatorQuote(address operator);
    error QuoteExpired(address operator, uint64 expiry);
    error QuoteTimestampTooOld(address operator, uint64 timestamp, uint64 maxAge);
    error QuoteAlreadyUsed(address operator);
    error InvalidQuoteSignature(address operator);
}
