package outage

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// at is a moment, ms after a fixed one.
func at(ms int64) time.Time { return time.UnixMilli(1_700_000_000_000 + ms) }

func acked(began, ended int64) Event { return Event{ID: at(began).UnixNano(), Ended: at(ended)} }

func lost(began, ended int64) Event {
	return Event{ID: at(began).UnixNano(), Ended: at(ended), Failed: true, Reason: "pg-1: closed"}
}

// story has two outages, of 900 and 250 ms, and one before what is looked at.
func story() Log {
	return Log{
		acked(0, 5), acked(5000, 5005), acked(5050, 5055),
		lost(5100, 5110), lost(5900, 5950),
		acked(5950, 5955), acked(6000, 6005), acked(6050, 6055),
		lost(6060, 6070),
		acked(6300, 6305), acked(6350, 6355),
	}
}

func TestTimeWithoutAWriteIsBetweenTwoAcknowledgements(t *testing.T) {
	log, fault := story(), at(5020)
	assert.Equal(t, log.Longest(fault).Length(), 900*time.Millisecond)
	assert.Equal(t, log.Total(fault), 1150*time.Millisecond)
	assert.Equal(t, log.Longest(at(0)).Length(), 5*time.Second)
	assert.Equal(t, log.AcknowledgedSince(at(5950)), 4)
	// A write that began before the fault says nothing about the time after it.
	assert.Equal(t, Log{acked(0, 9000)}.AcknowledgedSince(at(10)), 0)
	assert.Equal(t, Log{}.Longest(fault).Length(), time.Duration(0))
}

func TestFailuresOutsideOfTheOutageAreTold(t *testing.T) {
	log, fault := story(), at(5020)
	failures := log.Failures(fault)
	assert.Equal(t, len(failures), 3)
	outside := failures.Outside(log.Longest(fault))
	assert.Equal(t, len(outside), 1)
	assert.Equal(t, outside[0].Began(), at(6060))
}

func TestLogIsReadAsItWasWritten(t *testing.T) {
	var text strings.Builder
	for _, e := range story() {
		fmt.Fprintln(&text, e)
	}
	text.WriteString("acknowledged 17")
	log, err := Parse(strings.NewReader(text.String()))
	assert.NilError(t, err)
	assert.DeepEqual(t, log, story())
	assert.Equal(t, len(log.Acknowledged()), 8)
}

func TestLogIsInTheOrderOfTheAnswers(t *testing.T) {
	log, err := Parse(strings.NewReader(fmt.Sprintln(acked(0, 900)) + fmt.Sprintln(acked(50, 60))))
	assert.NilError(t, err)
	assert.DeepEqual(t, log, Log{acked(50, 60), acked(0, 900)})
}
