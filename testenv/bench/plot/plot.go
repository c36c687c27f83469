// Package plot draws what a benchmark has found as SVG: a bar for a median, a
// whisker to the worst. A page can show it as an image, on light and on dark.
package plot

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Chart is bars in panels below each other.
type Chart struct {
	Title string
	// Unit of all values.
	Unit string
	// Common has all panels share one scale. Else each has its own.
	Common bool
	Panels []Panel
}

// Panel is the bars of one thing that was measured.
type Panel struct {
	Name string
	Bars []Bar
	// Goal is drawn as a line; 0 is none.
	Goal float64
}

// Bar is one sample.
type Bar struct {
	// Series is whose it is. The same series has the same colour in all panels.
	Series        string
	Median, Worst float64
}

const (
	width      = 760
	margin     = 16
	labelWidth = 190
	valueWidth = 130
	barHeight  = 16
	barStep    = 24
	panelHead  = 30
	panelFoot  = 26
	titleHead  = 40
	scaleTicks = 4
)

// Both palettes keep their contrast where colours are not told apart: series
// differ in lightness, too, and each bar is named.
const style = `<style>
text{font:13px system-ui,sans-serif;fill:#1f2328}
.title{font-size:16px;font-weight:600}.panel{font-weight:600}.small{font-size:11px;fill:#59636e}
.axis{stroke:#d1d9e0}.whisker{stroke:#1f2328;stroke-width:1.5}.goal{stroke:#cf222e;stroke-width:1.5;stroke-dasharray:4 3}.goaltext{font-size:11px;fill:#cf222e}
.s0{fill:#0969da}.s1{fill:#8c959f}.s2{fill:#bf8700}.s3{fill:#57606a}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.axis{stroke:#3d444d}.whisker{stroke:#f0f6fc}.goal{stroke:#ff7b72}.goaltext{fill:#ff7b72}
.s0{fill:#4493f8}.s1{fill:#9198a1}.s2{fill:#d29922}.s3{fill:#656c76}}
</style>
`

const seriesColours = 4

// SVG is the drawing.
func (c Chart) SVG() string {
	height := titleHead + margin
	for _, p := range c.Panels {
		height += panelHead + len(p.Bars)*barStep + panelFoot
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		width, height, width, height, html.EscapeString(c.Title))
	b.WriteString(style)
	text(&b, "title", "start", margin, 26, c.Title)
	colours := c.colours()
	y := titleHead
	for _, p := range c.Panels {
		end := p.largest()
		if c.Common {
			end = c.largest()
		}
		p.draw(&b, y, niceStep(end), c.Unit, colours)
		y += panelHead + len(p.Bars)*barStep + panelFoot
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// colours gives each series a number, in the order in which they come.
func (c Chart) colours() map[string]int {
	colours := map[string]int{}
	for _, p := range c.Panels {
		for _, bar := range p.Bars {
			if _, known := colours[bar.Series]; !known {
				colours[bar.Series] = len(colours) % seriesColours
			}
		}
	}
	return colours
}

func (c Chart) largest() float64 {
	largest := 0.0
	for _, p := range c.Panels {
		largest = max(largest, p.largest())
	}
	return largest
}

func (p Panel) largest() float64 {
	largest := p.Goal
	for _, bar := range p.Bars {
		if bar.Worst > largest { // not if it is no number
			largest = bar.Worst
		}
	}
	return largest
}

// draw draws the panel from y down. step is between two ticks of its scale.
func (p Panel) draw(b *strings.Builder, y int, step float64, unit string, colours map[string]int) {
	const left, right = margin + labelWidth, width - margin - valueWidth
	x := func(v float64) float64 { return left + v/(step*scaleTicks)*(right-left) }
	text(b, "panel", "start", margin, float64(y+20), p.Name)
	top := y + panelHead
	bottom := top + len(p.Bars)*barStep
	for i := range scaleTicks + 1 {
		v := float64(i) * step
		line(b, "axis", x(v), float64(top-4), x(v), float64(bottom))
		text(b, "small", "middle", x(v), float64(bottom+13), number(v))
	}
	text(b, "small", "start", right+14, float64(bottom+13), unit)
	for i, bar := range p.Bars {
		at := top + i*barStep
		middle := float64(at) + barHeight/2
		text(b, "", "end", left-8, middle+4, bar.Series)
		if math.IsNaN(bar.Median) {
			text(b, "small", "start", left+6, middle+4, "not measured")
			continue
		}
		fmt.Fprintf(b, `<rect class="s%d" x="%s" y="%d" width="%s" height="%d" rx="2"/>`+"\n",
			colours[bar.Series], coordinate(left), at, coordinate(x(bar.Median)-left), barHeight)
		line(b, "whisker", x(bar.Median), middle, x(bar.Worst), middle)
		line(b, "whisker", x(bar.Worst), middle-5, x(bar.Worst), middle+5)
		text(b, "", "start", right+14, middle+4, fmt.Sprintf("%s, worst %s", number(bar.Median), number(bar.Worst)))
	}
	if p.Goal > 0 {
		line(b, "goal", x(p.Goal), float64(top-8), x(p.Goal), float64(bottom))
		text(b, "goaltext", "start", x(p.Goal)+4, float64(top-6), "goal "+number(p.Goal))
	}
}

// niceStep is a round step with which a scale of scaleTicks reaches v.
func niceStep(v float64) float64 {
	if v <= 0 || math.IsNaN(v) {
		return 1
	}
	magnitude := math.Pow(10, math.Floor(math.Log10(v/scaleTicks)))
	steps := []float64{1, 1.5, 2, 2.5, 3, 4, 5, 10}
	i := slices.IndexFunc(steps, func(s float64) bool { return s*magnitude*scaleTicks >= v })
	return steps[max(i, 0)] * magnitude
}

func line(b *strings.Builder, class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(b, `<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`+"\n", class, coordinate(x1), coordinate(y1), coordinate(x2), coordinate(y2))
}

func text(b *strings.Builder, class, anchor string, x, y float64, content string) {
	fmt.Fprintf(b, `<text class="%s" text-anchor="%s" x="%s" y="%s">%s</text>`+"\n", class, anchor, coordinate(x), coordinate(y), html.EscapeString(content))
}

func coordinate(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// number writes a value as short as it can be read: three digits.
func number(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
