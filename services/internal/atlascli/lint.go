package atlascli

import (
	"context"
	"fmt"

	"ariga.io/atlas-go-sdk/atlasexec"
)

// Lint replays a directory in Atlas's form in the empty database of a DSN (a URI), which is for nothing else, and reports
// what Atlas's analyzers find in its newest files.
func (c *CLI) Lint(ctx context.Context, dsn, dir string, latest int) (*atlasexec.SummaryReport, error) {
	client, target, err := c.client(dsn)
	if err != nil {
		return nil, err
	}
	report, err := client.MigrateLint(ctx, &atlasexec.MigrateLintParams{DevURL: target, DirURL: dirURL(dir), Latest: uint64(latest)})
	if err != nil {
		return nil, fmt.Errorf("atlas migrate lint: %w", err)
	}
	return report, nil
}
