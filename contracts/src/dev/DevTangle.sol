// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IBlueprintServiceManager as Manager} from "../interfaces/IBlueprintServiceManager.sol";
import {DevBlueprints} from "./DevBlueprints.sol";
import {DevServices} from "./DevServices.sol";

/// @title DevTangle
/// @notice A Tangle for development chains: the protocol's selectors, events, errors, call order and treatment
/// of hooks (ABI 0.19), so that off-chain code has one path. Ours, and not for a chain with value on it.
/// @dev Left out: delegation, rewards, fee splits (coin sent in stays here), subscriptions, BLS, exit queues,
/// service quotes, slashing beyond the proposal. A difference in what is not left out is a bug here.
contract DevTangle is DevServices {
    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant JOB_QUOTE_TYPE = keccak256(
        "JobQuoteDetails(address requester,uint64 serviceId,uint8 jobIndex,uint256 price,uint64 timestamp,"
        "uint64 expiry,uint8 confidentiality,bytes32 inputsHash)"
    );
    uint64 private constant QUOTE_AGE_MAX = 1 hours;

    mapping(uint64 serviceId => uint64) private _callCounts;
    mapping(uint64 serviceId => mapping(uint64 callId => JobCall)) private _calls;
    mapping(uint64 serviceId => mapping(uint64 callId => bytes32)) private _inputsHashes;
    mapping(uint64 serviceId => mapping(uint64 callId => address[])) private _quotedOperators;
    mapping(uint64 serviceId => mapping(uint64 callId => mapping(address operator => uint256))) public
        getJobQuotedPrice;
    mapping(uint64 serviceId => mapping(uint64 callId => mapping(address operator => bool))) private
        _hasAnswered;
    mapping(uint64 blueprintId => mapping(uint8 job => uint256)) private _jobRates;
    mapping(bytes32 digest => bool) private _usedQuotes;

    /// @param staking A `DevStaking`, or zero for a chain where every operator counts as staked.
    constructor(address staking) DevBlueprints(staking) {}

    function submitJob(uint64 serviceId, uint8 job, bytes calldata inputs)
        external
        payable
        returns (uint64 callId)
    {
        Service storage service = _checkSubmission(serviceId, job);
        bool isPaid = service.pricing == PRICING_EVENT_DRIVEN;
        uint256 rate = isPaid ? getJobEventRate(service.blueprintId, job) : 0;
        if (msg.value != rate) revert InvalidMsgValue(rate, msg.value);
        callId = _openCall(serviceId, job, inputs, rate, false);
        emit JobSubmitted(serviceId, callId, job, msg.sender, inputs);
        _tellJobCall(service.blueprintId, serviceId, job, callId, inputs);
    }

    function submitJobFromQuote(
        uint64 serviceId,
        uint8 job,
        bytes calldata inputs,
        SignedJobQuote[] calldata quotes
    ) external payable returns (uint64 callId) {
        if (quotes.length == 0) revert NoQuotes();
        Service storage service = _checkSubmission(serviceId, job);
        uint256 price = _useQuotes(serviceId, job, keccak256(inputs), quotes);
        if (msg.value != price) revert InvalidMsgValue(price, msg.value);
        callId = _openCall(serviceId, job, inputs, price, true);
        address[] storage quoted = _quotedOperators[serviceId][callId];
        for (uint256 i; i < quotes.length; ++i) {
            quoted.push(quotes[i].operator);
            getJobQuotedPrice[serviceId][callId][quotes[i].operator] = quotes[i].details.price;
        }
        emit JobSubmittedFromQuote(serviceId, callId, job, msg.sender, quoted, price, inputs);
        _tellJobCall(service.blueprintId, serviceId, job, callId, inputs);
    }

    function submitResult(uint64 serviceId, uint64 callId, bytes calldata result) external {
        _takeResult(serviceId, callId, result);
    }

    /// @notice One bad entry reverts them all.
    function submitResults(uint64 serviceId, uint64[] calldata callIds, bytes[] calldata results) external {
        if (callIds.length != results.length) revert LengthMismatch();
        for (uint256 i; i < callIds.length; ++i) {
            _takeResult(serviceId, callIds[i], results[i]);
        }
    }

    function setJobEventRates(uint64 blueprintId, uint8[] calldata jobs, uint256[] calldata rates) external {
        if (_blueprint(blueprintId).owner != msg.sender) revert NotBlueprintOwner(blueprintId, msg.sender);
        if (jobs.length != rates.length) revert LengthMismatch();
        for (uint256 i; i < jobs.length; ++i) {
            _jobRates[blueprintId][jobs[i]] = rates[i];
        }
    }

    function getJobEventRate(uint64 blueprintId, uint8 job) public view returns (uint256) {
        uint256 rate = _jobRates[blueprintId][job];
        return rate != 0 ? rate : _blueprints[blueprintId].config.eventRate;
    }

    /// @notice An unknown call is all zeros, as in the real protocol; it does not revert.
    function getJobCall(uint64 serviceId, uint64 callId) external view returns (JobCall memory) {
        return _calls[serviceId][callId];
    }

    function getJobQuotedOperators(uint64 serviceId, uint64 callId) external view returns (address[] memory) {
        return _quotedOperators[serviceId][callId];
    }

    function _checkSubmission(uint64 serviceId, uint8 job) private view returns (Service storage service) {
        service = _active(serviceId);
        if (service.ttl != 0 && block.timestamp > service.createdAt + service.ttl) {
            revert ServiceExpired(serviceId);
        }
        if (!isPermittedCaller[serviceId][msg.sender]) revert NotPermittedCaller(serviceId, msg.sender);
        if (job >= _blueprints[service.blueprintId].jobCount) revert InvalidJobIndex(job);
    }

    function _openCall(uint64 serviceId, uint8 job, bytes calldata inputs, uint256 payment, bool isRFQ)
        private
        returns (uint64 callId)
    {
        callId = _callCounts[serviceId]++;
        _calls[serviceId][callId] =
            JobCall(job, msg.sender, uint64(block.timestamp), 0, false, isRFQ, payment);
        _inputsHashes[serviceId][callId] = keccak256(inputs);
    }

    function _tellJobCall(
        uint64 blueprintId,
        uint64 serviceId,
        uint8 job,
        uint64 callId,
        bytes calldata inputs
    ) private {
        _mustCall(
            _blueprints[blueprintId].manager,
            abi.encodeCall(Manager.onJobCall, (serviceId, job, callId, inputs))
        );
    }

    /// @dev The order is the protocol's and the manager's result gate depends on it: count, hook (best effort),
    /// event, then the question how many results are required, all in one transaction.
    function _takeResult(uint64 serviceId, uint64 callId, bytes calldata result) private {
        address manager = _blueprints[_service(serviceId).blueprintId].manager;
        JobCall storage call = _calls[serviceId][callId];
        if (call.caller == address(0)) revert JobCallNotFound(serviceId, callId);
        uint8 job = call.jobIndex;
        if (_requiresAggregation(manager, serviceId, job)) revert AggregationRequired(serviceId, job);
        _checkAnswerer(serviceId, callId, call);
        _hasAnswered[serviceId][callId][msg.sender] = true;
        call.resultCount += 1;
        _tellJobResult(manager, serviceId, callId, job, result);
        emit JobResultSubmitted(serviceId, callId, msg.sender, result);
        if (call.resultCount >= _requiredResults(manager, serviceId, job)) {
            call.completed = true;
            emit JobCompleted(serviceId, callId);
        }
    }

    function _tellJobResult(
        address manager,
        uint64 serviceId,
        uint64 callId,
        uint8 job,
        bytes calldata result
    ) private {
        _tryCall(
            manager,
            abi.encodeCall(
                Manager.onJobResult,
                (serviceId, job, callId, msg.sender, _inputsHashes[serviceId][callId], result)
            )
        );
    }

    function _checkAnswerer(uint64 serviceId, uint64 callId, JobCall storage call) private view {
        if (!isServiceOperator[serviceId][msg.sender]) revert OperatorNotInService(serviceId, msg.sender);
        _requireStaked(msg.sender);
        if (call.completed) revert JobAlreadyCompleted(serviceId, callId);
        if (_hasAnswered[serviceId][callId][msg.sender]) {
            revert ResultAlreadySubmitted(serviceId, callId, msg.sender);
        }
        if (!call.isRFQ) return;
        address[] storage quoted = _quotedOperators[serviceId][callId];
        for (uint256 i; i < quoted.length; ++i) {
            if (quoted[i] == msg.sender) return;
        }
        revert NotQuotedOperator(serviceId, callId);
    }

    function _useQuotes(uint64 serviceId, uint8 job, bytes32 inputsHash, SignedJobQuote[] calldata quotes)
        private
        returns (uint256 price)
    {
        for (uint256 i; i < quotes.length; ++i) {
            SignedJobQuote calldata quote = quotes[i];
            if (quote.details.serviceId != serviceId) {
                revert JobQuoteServiceMismatch(serviceId, quote.details.serviceId);
            }
            if (quote.details.jobIndex != job) revert JobQuoteJobIndexMismatch(job, quote.details.jobIndex);
            for (uint256 j; j < i; ++j) {
                if (quotes[j].operator == quote.operator) revert DuplicateOperatorQuote(quote.operator);
            }
            if (!isServiceOperator[serviceId][quote.operator]) {
                revert OperatorNotInService(serviceId, quote.operator);
            }
            _requireStaked(quote.operator);
            _useQuote(quote, inputsHash);
            price += quote.details.price;
        }
    }

    function _useQuote(SignedJobQuote calldata quote, bytes32 inputsHash) private {
        JobQuoteDetails calldata details = quote.details;
        address operator = quote.operator;
        if (details.requester != msg.sender) {
            revert JobQuoteRequesterMismatch(operator, details.requester, msg.sender);
        }
        if (details.inputsHash != inputsHash) {
            revert JobQuoteInputsMismatch(operator, inputsHash, details.inputsHash);
        }
        if (block.timestamp > details.expiry) revert QuoteExpired(operator, details.expiry);
        if (block.timestamp > details.timestamp + QUOTE_AGE_MAX) {
            revert QuoteTimestampTooOld(operator, details.timestamp, QUOTE_AGE_MAX);
        }
        bytes32 digest = _quoteDigest(details);
        if (_usedQuotes[digest]) revert QuoteAlreadyUsed(operator);
        if (_signer(digest, quote.signature) != operator) revert InvalidQuoteSignature(operator);
        _usedQuotes[digest] = true;
    }

    function _quoteDigest(JobQuoteDetails calldata details) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN_TYPE, keccak256("TangleQuote"), keccak256("1"), block.chainid, address(this))
        );
        return keccak256(abi.encodePacked("\x19\x01", domain, keccak256(abi.encode(JOB_QUOTE_TYPE, details))));
    }
}
