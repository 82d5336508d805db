// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title A stand-in for Tangle's staking, for development chains
/// @notice Knows who staked how much coin, and nothing of delegation, rewards or slashing.
contract DevStaking {
    uint256 private constant BOND = 1 ether;
    mapping(address operator => uint256) public getOperatorStake;

    error InsufficientStake(address operator, uint256 required, uint256 actual);

    /// @notice Stake the sent coin.
    function registerOperator() external payable {
        uint256 stake = getOperatorStake[msg.sender] + msg.value;
        if (stake < BOND) revert InsufficientStake(msg.sender, BOND, stake);
        getOperatorStake[msg.sender] = stake;
    }

    /// @notice Stop being active; a development chain has no queue, the coin comes back at once.
    function startLeaving() external {
        uint256 stake = getOperatorStake[msg.sender];
        delete getOperatorStake[msg.sender];
        payable(msg.sender).transfer(stake);
    }

    function isOperatorActive(address operator) external view returns (bool) {
        return getOperatorStake[operator] >= BOND;
    }

    function minOperatorStake() external pure returns (uint256) {
        return BOND;
    }

    /// @notice Zero: the bond is native coin.
    function operatorBondToken() external pure returns (address) {
        return address(0);
    }
}
