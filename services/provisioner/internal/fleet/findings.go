package fleet

import (
	"encoding/json"

	"google.golang.org/protobuf/encoding/protojson"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
)

func marshalFindings(findings []*provisionerv1.Finding) ([]byte, error) {
	out := make([]json.RawMessage, 0, len(findings))
	for _, f := range findings {
		data, err := protojson.Marshal(f)
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return json.Marshal(out)
}

func unmarshalFindings(data []byte) ([]*provisionerv1.Finding, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	var out []*provisionerv1.Finding
	for _, r := range raw {
		f := &provisionerv1.Finding{}
		if err := protojson.Unmarshal(r, f); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}
