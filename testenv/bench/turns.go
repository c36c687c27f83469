package main

// Sides of a comparison.
const (
	ourSide       = 0
	referenceSide = 1
)

// inTurn measures both sides, the one first in one repetition and the other in
// the next, so that neither has the better place.
func inTurn(repetition int, measure func(side int) error) error {
	first := repetition % 2
	if err := measure(first); err != nil {
		return err
	}
	return measure(1 - first)
}
