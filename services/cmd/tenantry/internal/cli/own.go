package cli

import (
	"time"

	"github.com/tenantry/tenantry/services/internal/migrate"
)

// printOwn tells what was done to a service's own database.
func (a *app) printOwn(name string, result migrate.Result) error {
	if a.asked {
		applied := []string{}
		for _, f := range result.Applied {
			applied = append(applied, f.Name)
		}
		return a.printJSON(map[string]any{"own": map[string]any{"database": name, "from_version": result.From, "to_version": result.To, "applied": applied}})
	}
	for _, f := range result.Applied {
		if err := a.printf("applied  %s  %s  %s\n", name, f.Name, f.Duration.Round(time.Millisecond)); err != nil {
			return err
		}
	}
	return a.printf("%s: %s\n", name, versionStep(result.From, result.To))
}
