package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// searchStore keeps values as documents of one index, each acknowledged by its primary and
// by every copy that is in sync.
type searchStore struct {
	hosts []string
	next  int // of hosts
	made  bool
}

const searchIndex = "values"

// call asks one member after the other until one answers, and returns what it says if that is
// one of the wanted statuses.
func (s *searchStore) call(ctx context.Context, method, path string, body any, wanted ...int) (answer []byte, err error) {
	doc, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	host := s.hosts[s.next%len(s.hosts)]
	req, err := http.NewRequestWithContext(ctx, method, "http://"+host+":9200/"+path, bytes.NewReader(doc))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Timeout: 3 * time.Second}).Do(req)
	if err != nil {
		s.next++ // it may be dead
		return nil, err
	}
	defer res.Body.Close()
	if answer, err = io.ReadAll(res.Body); err != nil {
		return nil, err
	}
	for _, status := range wanted {
		if res.StatusCode == status {
			return answer, nil
		}
	}
	s.next++
	return nil, fmt.Errorf("%s: %s: %.200s", host, res.Status, answer)
}

func (s *searchStore) put(ctx context.Context, value string) error {
	if !s.made {
		index := map[string]any{"settings": map[string]any{"number_of_shards": 1, "number_of_replicas": 2}}
		// 400: it is there already.
		if _, err := s.call(ctx, http.MethodPut, searchIndex, index, http.StatusOK, http.StatusBadRequest); err != nil {
			return err
		}
		s.made = true
	}
	_, err := s.call(ctx, http.MethodPut, searchIndex+"/_doc/"+value+"?wait_for_active_shards=2", map[string]string{"value": value}, http.StatusOK, http.StatusCreated)
	return err
}

func (s *searchStore) all(ctx context.Context) (values []string, err error) {
	for range 10 {
		if _, err = s.call(ctx, http.MethodPost, searchIndex+"/_refresh", nil, http.StatusOK); err == nil {
			break
		}
		time.Sleep(time.Second)
	}
	if err != nil {
		return nil, err
	}
	after := ""
	for {
		query := map[string]any{"size": 1000, "sort": []string{"value.keyword"}, "_source": false}
		if after != "" {
			query["search_after"] = []string{after}
		}
		doc, err := s.call(ctx, http.MethodPost, searchIndex+"/_search", query, http.StatusOK)
		if err != nil {
			return nil, err
		}
		var found struct {
			Hits struct {
				Hits []struct {
					ID string `json:"_id"`
				}
			}
		}
		if err := json.Unmarshal(doc, &found); err != nil {
			return nil, err
		}
		if len(found.Hits.Hits) == 0 {
			return values, nil
		}
		for _, hit := range found.Hits.Hits {
			values = append(values, hit.ID)
		}
		after = values[len(values)-1]
	}
}
