package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"
)

func chart() Chart {
	return Chart{
		Title: "Seconds without a <primary>", Unit: "s",
		Panels: []Panel{
			{Name: "engine kill -9", Goal: 2, Bars: []Bar{{"OpenManage", 0.9, 1.4}, {"Patroni", 7.5, 11.8}}},
			{Name: "node killed", Bars: []Bar{{"Patroni", 32, 41}, {"OpenManage", 7, 8}, {"bare service", math.NaN(), math.NaN()}}},
		},
	}
}

func TestDrawing(t *testing.T) {
	golden.Assert(t, chart().SVG(), "chart.svg")
	common := chart()
	common.Common = true
	golden.Assert(t, common.SVG(), "common.svg")
}

func TestDrawingIsXML(t *testing.T) {
	decoder := xml.NewDecoder(strings.NewReader(chart().SVG()))
	for {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		assert.NilError(t, err)
	}
}

func TestScaleReachesWhatWasMeasuredBesideWhatWasNot(t *testing.T) {
	assert.Equal(t, chart().Panels[1].largest(), 41.0)
}

func TestScaleIsRoundAndReachesTheLargest(t *testing.T) {
	for _, v := range []float64{0.03, 0.9, 1, 7.5, 11.8, 41, 100, 480} {
		step := niceStep(v)
		assert.Check(t, step*scaleTicks >= v, "%v: %v", v, step)
		assert.Check(t, step*scaleTicks <= v*2.5, "%v: %v", v, step)
	}
	assert.Equal(t, niceStep(0), 1.0)
	assert.Check(t, is.Equal(niceStep(11.8), 3.0))
}
