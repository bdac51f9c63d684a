package routes

// Each calls f with every route that is known, in no order, until f returns false. A route that changes meanwhile is met as
// it was or as it is.
func (t *Table) Each(f func(*Route) bool) {
	t.known.Load().byID.each(f)
}
