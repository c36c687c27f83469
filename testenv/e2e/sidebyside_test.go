package e2e

import "testing"

// What breaks neither nodes nor managers is shown for two applications at a time: each
// lane has its own.
var lanes = map[string][]struct {
	name string
	run  func(*testing.T)
}{
	"pg": {
		{"CredentialsLogIn", credentialsLogIn},
		{"Switchover", switchover},
		{"RestartAndUpgradeOneMemberAtATime", restartAndUpgradeOneMemberAtATime},
		{"StopAndStart", stopAndStart},
		{"ADeployThatChangesAllMembersRollsOverThem", aDeployThatChangesAllMembersRollsOverThem},
		{"ScaleOutAndIn", scaleOutAndIn},
		{"SettingsChange", settingsChange},
		{"AStandbyIsRebuilt", aStandbyIsRebuilt},
		{"AFormerPrimaryThatCannotBeRewoundGetsASnapshot", aFormerPrimaryThatCannotBeRewoundGetsASnapshot},
		{"AnUpgradeThatCannotWorkChangesNothing", anUpgradeThatCannotWorkChangesNothing},
		{"SecondTaskOfAMemberSaysWhoHoldsTheVolume", secondTaskOfAMemberSaysWhoHoldsTheVolume},
	},
	"others": {
		{"LifeOfAnApplication", lifeOfAnApplication},
		{"AFullDiskIsReportedAndEnlargedWhereExt4CannotGrowInUse", aFullDiskIsReportedAndEnlargedWhereExt4CannotGrowInUse},
		{"AFullDiskIsReportedAndEnlargedInUse", aFullDiskIsReportedAndEnlargedInUse},
		{"VolumesExpand", volumesExpand},
		{"AUsersOwnApplication", aUsersOwnApplication},
	},
}

func TestSideBySide(t *testing.T) {
	swarm(t) // once for both
	for lane, tests := range lanes {
		t.Run(lane, func(t *testing.T) {
			t.Parallel()
			for _, test := range tests {
				t.Run(test.name, test.run)
			}
		})
	}
}
