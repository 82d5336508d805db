// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {DevBlueprints} from "../src/dev/DevBlueprints.sol";
import {DevServices} from "../src/dev/DevServices.sol";
import {DevStaking} from "../src/dev/DevStaking.sol";
import {DevStatusRegistry} from "../src/dev/DevStatusRegistry.sol";
import {DevTangle} from "../src/dev/DevTangle.sol";
import {DevTangleTypes as Types} from "../src/dev/DevTangleTypes.sol";
import {IBlueprintServiceManager as Manager} from "../src/interfaces/IBlueprintServiceManager.sol";
import {IOperatorStatus, ITangle} from "../src/interfaces/ITangle.sol";

/// @notice Our declarations against the selectors and topics of the published protocol (ABI 0.19).
contract SelectorsTest {
    function _is(bytes4 actual, bytes4 expected) private pure {
        require(actual == expected, string(abi.encodePacked("a selector differs: ", expected)));
    }

    function test_manager_hooks_have_the_selectors_tangle_calls() public pure {
        _is(Manager.onBlueprintCreated.selector, 0x0b6535d7);
        _is(Manager.onRegister.selector, 0x67793cc6);
        _is(Manager.onUnregister.selector, 0x151a4576);
        _is(Manager.onUpdatePreferences.selector, 0xf58e2066);
        _is(Manager.onRequest.selector, 0xc28cd812);
        _is(Manager.onApprove.selector, 0xb159eb34);
        _is(Manager.onReject.selector, 0xc9cd4a18);
        _is(Manager.onServiceInitialized.selector, 0x82a1ece4);
        _is(Manager.onServiceTermination.selector, 0xa24e8a90);
        _is(Manager.canJoin.selector, 0xb47242e8);
        _is(Manager.onOperatorJoined.selector, 0x9aa26a92);
        _is(Manager.canLeave.selector, 0xe518de76);
        _is(Manager.onOperatorLeft.selector, 0x965d231b);
        _is(Manager.onExitScheduled.selector, 0xe0559c63);
        _is(Manager.onExitCanceled.selector, 0x5440662c);
        _is(Manager.onJobCall.selector, 0x9838caa3);
        _is(Manager.onJobResult.selector, 0xe649fc03);
        _is(Manager.getRequiredResultCount.selector, 0x4c443e04);
        _is(Manager.onBinaryVersionPublished.selector, 0x15034413);
        _is(Manager.onOperatorBinaryAcked.selector, 0xcd81472b);
    }

    function test_manager_views_have_the_selectors_tangle_calls() public pure {
        _is(Manager.requiresAggregation.selector, 0x19ed5bb2);
        _is(Manager.getAggregationThreshold.selector, 0x25fcc64e);
        _is(Manager.onAggregatedResult.selector, 0x158bb2eb);
        _is(Manager.onUnappliedSlash.selector, 0x0881898f);
        _is(Manager.onSlash.selector, 0x7e14b919);
        _is(Manager.querySlashingOrigin.selector, 0x74ceeb55);
        _is(Manager.queryDisputeOrigin.selector, 0x14b4df4c);
        _is(Manager.getSlashingWindow.selector, 0x3fdadfcc);
        _is(Manager.queryDeveloperPaymentAddress.selector, 0x08179f35);
        _is(Manager.queryIsPaymentAssetAllowed.selector, 0xe390fcdb);
        _is(Manager.getMinOperatorStake.selector, 0x54dce6c2);
        _is(Manager.computeBillAdjustmentBps.selector, 0xf93ff2b7);
        _is(Manager.getHeartbeatInterval.selector, 0x0068080b);
        _is(Manager.getHeartbeatThreshold.selector, 0x92cbb78e);
        _is(Manager.getExitConfig.selector, 0xd2672ed4);
        _is(Manager.getNonPaymentTerminationPolicy.selector, 0x71e8e85d);
        _is(Manager.forceRemoveAllowsBelowMin.selector, 0xf3e28f32);
    }

    function test_what_the_manager_asks_of_tangle_has_its_selectors() public pure {
        _is(ITangle.getServiceOperators.selector, 0xbb207f1f);
        _is(ITangle.isServiceOperator.selector, 0xa595b21e);
        _is(ITangle.isServiceActive.selector, 0x2f46279f);
        _is(ITangle.getJobQuotedOperators.selector, 0x038dda6c);
        _is(ITangle.proposeSlash.selector, 0x0472d2ff);
        _is(IOperatorStatus.isOnline.selector, 0x5685cf68);
    }

    function test_dev_tangle_has_the_protocols_selectors() public view {
        _is(DevBlueprints.createBlueprint.selector, 0x3022f66c);
        _is(DevBlueprints.preRegister.selector, 0x18c68017);
        _is(bytes4(keccak256("registerOperator(uint64,bytes,string)")), 0xd4e1ab7c);
        _is(bytes4(keccak256("registerOperator(uint64,bytes,string,bytes)")), 0x7324e916);
        _is(DevBlueprints.updateOperatorPreferences.selector, 0x909eac24);
        _is(DevBlueprints.unregisterOperator.selector, 0x0afd3738);
        _is(DevBlueprints.isOperatorRegistered.selector, 0x64462595);
        _is(DevBlueprints.getOperatorPublicKey.selector, 0x180cae67);
        _is(DevBlueprints.getOperatorPreferences.selector, 0xf32f9673);
        _is(DevServices.requestService.selector, 0xc841e26e);
        _is(DevServices.approveService.selector, 0x6a46006b);
        _is(DevServices.rejectService.selector, 0x6d8b88c3);
        _is(DevServices.terminateService.selector, 0x5b71c934);
        _is(DevServices.joinService.selector, 0x2b9da71a);
        _is(DevServices.leaveService.selector, 0x6778afbc);
        _is(DevServices.forceRemoveOperator.selector, 0x684d89f5);
        _is(DevServices.addPermittedCaller.selector, 0x815d6a26);
        _is(DevServices.removePermittedCaller.selector, 0x5f359924);
        _is(DevTangle.submitJob.selector, 0x3413e8ee);
        _is(DevTangle.submitJobFromQuote.selector, 0x72a1f7be);
        _is(DevTangle.submitResult.selector, 0x2d07e655);
        _is(DevTangle.submitResults.selector, 0xaacdba9f);
        _is(DevTangle.getJobCall.selector, 0xa672bc0a);
        _is(DevTangle(address(0)).getJobQuotedPrice.selector, 0xfca78d2d);
        _is(DevServices.getService.selector, 0x3dc0d5fe);
        _is(DevTangle(address(0)).isPermittedCaller.selector, 0x2ec2bd03);
        _is(DevTangle(address(0)).serviceCount.selector, 0x06237526);
        _is(DevTangle(address(0)).blueprintCount.selector, 0xc602d4fa);
        _is(DevBlueprints.getBlueprintConfig.selector, 0x563a89f9);
        _is(DevTangle.setJobEventRates.selector, 0xc1d71304);
        _is(DevTangle.getJobEventRate.selector, 0xf9333bb1);
        _is(DevStaking.registerOperator.selector, 0x2acde098);
        _is(DevStaking.isOperatorActive.selector, 0xeb473533);
        _is(DevStaking(address(0)).getOperatorStake.selector, 0xe4e88de8);
        _is(DevStaking.minOperatorStake.selector, 0xd775cb61);
        _is(DevStaking.operatorBondToken.selector, 0x0f157fb9);
        _is(DevStaking.startLeaving.selector, 0x87703550);
        _is(DevStatusRegistry.submitHeartbeatDirect.selector, 0x5cce98a6);
        _is(DevStatusRegistry.goOffline.selector, 0xc5d960bb);
        _is(DevStatusRegistry.isOnline.selector, 0x5685cf68);
    }

    function test_dev_tangle_has_the_protocols_errors() public pure {
        _is(Types.ManagerReverted.selector, 0x07a84ec2);
        _is(Types.ResultAlreadySubmitted.selector, 0xb7e7fcee);
        _is(Types.JobAlreadyCompleted.selector, 0x0a55512f);
        _is(Types.NotQuotedOperator.selector, 0xa32a5d1c);
        _is(Types.InvalidJobIndex.selector, 0x1370bcad);
        _is(Types.NotPermittedCaller.selector, 0xd5dd5b44);
        _is(Types.OperatorNotInService.selector, 0x783482e9);
        _is(Types.OperatorNotActive.selector, 0xe356d5aa);
        _is(Types.ServiceNotActive.selector, 0x4c5fe2d8);
        _is(Types.ServiceExpired.selector, 0x7c3e621b);
        _is(Types.AggregationRequired.selector, 0x77164cdc);
        _is(Types.InvalidMsgValue.selector, 0x1f89f671);
        _is(Types.QuoteAlreadyUsed.selector, 0x08d18271);
    }

    function test_dev_tangle_has_the_protocols_topics() public pure {
        _is(bytes4(Types.BlueprintCreated.selector), 0x7ccd26bc);
        _is(bytes4(Types.OperatorPreRegistered.selector), 0xd39ff75a);
        _is(bytes4(Types.OperatorRegistered.selector), 0x0455541b);
        _is(bytes4(Types.ServiceRequested.selector), 0x5c92301c);
        _is(bytes4(Types.ServiceApproved.selector), 0xceda1a44);
        _is(bytes4(Types.ServiceActivated.selector), 0x0325bb1c);
        _is(bytes4(Types.ServiceTerminated.selector), 0x3fd558a5);
        _is(bytes4(Types.SlashProposed.selector), 0xea15712b);
        require(
            Types.JobSubmitted.selector == 0xde37cc48d21778e1c9a075c4e41c5aff6918c3ea6151221f0af3ce8121a29db5
                && Types.JobSubmittedFromQuote.selector
                    == 0xb707259a8a1604adca251fecf84eb283329cd45175690dcb8ff1cf52a6252422
                && Types.JobResultSubmitted.selector
                    == 0x8a04f99fe23284e874e8dd017345248279cc59701695e73bcdbeb6241bcd2ac6
                && Types.JobCompleted.selector
                    == 0x60a7649f6e93e7a3ce1dc9729c20e3d95dce28c6a6bd957cde09d8a1cb37c19f
                && Types.ManagerHookFailed.selector
                    == 0x212b3bea93ba3eefbae6d15f7c17ac0868f3f756aacdd24d0bd69b0cbab22327,
            "a topic differs"
        );
    }
}
